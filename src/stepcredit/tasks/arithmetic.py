"""The embedded task: is the sum of each group of digits odd or even?

    digits 7 0 4 | 3 3 8 | 1 9 2             the problem: three groups of three digits
    work even 7 odd 0 odd 4 odd so odd       a careful line: starts at even and adds the digits; the end is the answer
    guess odd 3 even 3 odd 8 odd so odd      a hasty line: starts at a guess and subtracts the digits
    work even 1 odd 9 even 2 even so even
    answer odd odd even                      the stated answers, in order

Subtracting all digits from a right answer leaves even. The guess above leaves odd, so it was wrong. The logs come
from demonstrators of mixed quality. A careful line is always right. A hasty line states a guess, which is right half
of the time, checks it correctly, and keeps the guess whatever the check says. Three lines in four are hasty, also
among the responses that happen to be right, so a policy trained on those alone keeps guessing. Credit per step
separates them: a guess adds risk and work adds none, and a guess whose check leaves odd is the step at which the
response fails. The parity of three digits at once is hard for a small transformer, one digit at a time is easy, so
filtering cannot teach the policy to guess well.

The kind of every line is known, and whether it is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from stepcredit.episodes.episode import Episode
from stepcredit.grading.grade import Grade
from stepcredit.tasks.digits import digit_problems, groups_of
from stepcredit.tasks.task import Problem, graded
from stepcredit.tasks.word_tokenizer import word_tokenizer
from stepcredit.verdict import Verdict

GROUPS = 3
DIGITS = 3
HASTY = 0.75
GUESS_RIGHT = 0.5
PARITY = ("even", "odd")

_WORK = r"((?: \d (?:odd|even))+)"
_LINE = re.compile(rf"(?:work even|guess (?P<guess>odd|even)){_WORK} so (?P<answer>odd|even)")
_ANSWER = re.compile(r"^answer((?: (?:odd|even))+)\Z", re.MULTILINE)


class Arithmetic:
    """The parity task of the module docstring. Problems are sampled from a seed; the prompt determines the split."""

    name = "arithmetic"
    version = "1"
    step_delimiters: tuple[str, ...] = ("\n",)
    max_new_tokens = 64
    stop: tuple[str, ...] = ()
    source_versions: dict[str, str] = {}  # noqa: RUF012  empty: the problems are generated

    def tokenizer(self) -> Any:
        """A tokenizer with one token per digit, word or sign."""
        signs = ["digits", " |", "\n", "work", "guess", "answer", " so", " odd", " even"]
        return word_tokenizer([f" {d}" for d in range(10)] + signs)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """Returns `count` different problems of a split (default 1,000), sampled with the seed.

        Raises:
            InputError: unknown split, or more problems than the split has.
        """
        return digit_problems(["digits"], GROUPS, DIGITS, _answer, split, count, seed)

    def grade(self, problem: Problem, response: str) -> Grade:
        """Right if the answer line equals the gold answer and repeats the answers stated by the lines; an answer that
        contradicts its own lines is wrong."""
        answers = _ANSWER.findall(response)
        if not answers:
            return Grade(Verdict.WRONG, None, "no answer line")
        extracted = answers[-1].strip()
        if extracted != problem.answer:
            return Grade(Verdict.WRONG, extracted, "another answer")
        if self.wrong_steps(problem, response)[-1]:
            return Grade(Verdict.WRONG, extracted, "not what the lines state")
        return Grade(Verdict.RIGHT, extracted, "the gold answer")

    def wrong_steps(self, problem: Problem, response: str) -> list[bool]:
        """Which lines are wrong: a line whose stated answer is not the parity of its group, a line that is neither
        work nor guess, or an answer line that does not repeat the stated answers."""
        groups = groups_of(problem.text)
        lines = response.rstrip("\n").split("\n")
        stated = [_stated(line) for line in lines[:-1]]
        wrong = [
            answer is None or k >= len(groups) or answer != PARITY[sum(groups[k]) % 2]
            for k, answer in enumerate(stated)
        ]
        final = _ANSWER.match(lines[-1])
        is_copy = final is not None and final[1].split() == stated and len(stated) == len(groups)
        return [*wrong, not is_copy]

    def step_kinds(self, response: str) -> list[str]:
        """The kind of each line: work, guess, answer or other."""
        first = [line.split(" ")[0] for line in response.rstrip("\n").split("\n")]
        return [word if word in ("work", "guess", "answer") else "other" for word in first]

    def demonstrations(self, count: int, seed: int) -> list[Episode]:
        """Graded episodes of the mixed demonstrators, one per problem of the train split."""
        rng = np.random.default_rng([seed, 1])
        problems = self.problems("train", count, seed)
        return [graded(self, problem, _demonstrate(groups_of(problem.text), rng)) for problem in problems]


def _answer(prompt: str) -> str:
    return " ".join(PARITY[sum(digits) % 2] for digits in groups_of(prompt))


def _stated(line: str) -> str | None:
    """The answer that a line states; None if the line is neither work nor a guess that it keeps."""
    match = _LINE.fullmatch(line)
    if match is None or match["guess"] not in (None, match["answer"]):
        return None
    return match["answer"]


def work(digits: Sequence[int], start: int = 0) -> str:
    """Each digit with the parity of the sum so far: " 3 odd 8 odd 5 even".

    Subtraction and addition give the same parity, so with an answer as `start` the result checks that answer.
    """
    return "".join(f" {d} {PARITY[(start + sum(digits[: k + 1])) % 2]}" for k, d in enumerate(digits))


def _demonstrate(groups: Sequence[Sequence[int]], rng: np.random.Generator) -> str:
    lines, answers = [], []
    for digits in groups:
        truth = sum(digits) % 2
        if rng.random() < HASTY:
            guess = truth if rng.random() < GUESS_RIGHT else 1 - truth
            answers.append(PARITY[guess])
            lines.append(f"guess {PARITY[guess]}{work(digits, guess)} so {PARITY[guess]}\n")
        else:
            answers.append(PARITY[truth])
            lines.append(f"work even{work(digits)} so {PARITY[truth]}\n")
    return "".join(lines) + "answer " + " ".join(answers)
