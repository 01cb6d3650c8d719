"""The embedded task: is the sum of each group of digits odd or even?

    digits 7 0 4 | 3 3 8 | 1 9 2             the problem: three groups of three digits
    work even 7 odd 0 odd 4 odd so odd       a careful line: from even, add the digits; what is reached is the answer
    guess odd 3 even 3 odd 8 odd so odd      a hasty line: from a guess, take the digits away; the guess is the answer
    work even 1 odd 9 even 2 even so even
    answer odd odd even                      the stated answers, in order

Taking all digits away from a right answer leaves even: the guess above leaves odd, so it was wrong. The logs come
from demonstrators of mixed quality. A careful line is always right. A hasty one states a guess, is right half of
the time, checks it honestly, and goes by its guess whatever the check says. Three lines in four are hasty, so
haste is the habit, and the habit is *sometimes right*: of the responses that happen to be right most lines are
still hasty, and a policy trained on those alone keeps guessing. Credit sees through it: a guess adds risk where
work adds none, and a guess whose own check leaves odd is the step at which the response is lost. The parity of
three digits in one glance is hard for a small transformer, one digit at a time it is easy: no amount of filtering
teaches the policy to guess well.

Everything is known about every step: what kind of line it is, and whether it is wrong.
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
    """See the module's docstring. Problems are drawn from a seed; a prompt belongs to one split for good."""

    name = "arithmetic"
    version = "1"
    step_delimiters: tuple[str, ...] = ("\n",)
    max_new_tokens = 64
    stop: tuple[str, ...] = ()
    source_versions: dict[str, str] = {}  # noqa: RUF012  none: problems are made here

    def tokenizer(self) -> Any:
        """One token a digit, a word or a sign."""
        signs = ["digits", " |", "\n", "work", "guess", "answer", " so", " odd", " even"]
        return word_tokenizer([f" {d}" for d in range(10)] + signs)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """`count` different problems of a split (default 1,000), drawn from the seed.

        Raises:
            InputError: no such split, or more problems than it has.
        """
        return digit_problems(["digits"], GROUPS, DIGITS, _answer, split, count, seed)

    def grade(self, problem: Problem, response: str) -> Grade:
        """Right if the answer line is the gold answer and repeats what the lines stated: an answer that its own
        lines contradict is no solution."""
        found = _ANSWER.findall(response)
        if not found:
            return Grade(Verdict.WRONG, None, "no answer line")
        extracted = found[-1].strip()
        if extracted != problem.answer:
            return Grade(Verdict.WRONG, extracted, "another answer")
        if self.wrong_steps(problem, response)[-1]:
            return Grade(Verdict.WRONG, extracted, "not what the lines state")
        return Grade(Verdict.RIGHT, extracted, "the gold answer")

    def wrong_steps(self, problem: Problem, response: str) -> list[bool]:
        """Which lines are wrong: a work line whose stated answer is not the parity of its group, a line that is
        neither work nor guess, or an answer line that does not repeat what the lines stated."""
        groups = groups_of(problem.text)
        lines = response.rstrip("\n").split("\n")
        stated = [_stated(line) for line in lines[:-1]]
        wrong = [
            answer is None or k >= len(groups) or answer != PARITY[sum(groups[k]) % 2]
            for k, answer in enumerate(stated)
        ]
        said = _ANSWER.match(lines[-1])
        is_copy = said is not None and said[1].split() == stated and len(stated) == len(groups)
        return [*wrong, not is_copy]

    def step_kinds(self, response: str) -> list[str]:
        """What each line is: work, guess, answer or other."""
        first = [line.split(" ")[0] for line in response.rstrip("\n").split("\n")]
        return [word if word in ("work", "guess", "answer") else "other" for word in first]

    def demonstrations(self, count: int, seed: int) -> list[Episode]:
        """Graded episodes of the mixed demonstrators, one a problem of the train split."""
        rng = np.random.default_rng([seed, 1])
        problems = self.problems("train", count, seed)
        return [graded(self, problem, _demonstrate(groups_of(problem.text), rng)) for problem in problems]


def _answer(prompt: str) -> str:
    return " ".join(PARITY[sum(digits) % 2] for digits in groups_of(prompt))


def _stated(line: str) -> str | None:
    """The answer a line states; None if it is neither work nor a guess that it stands by."""
    found = _LINE.fullmatch(line)
    if found is None or found["guess"] not in (None, found["answer"]):
        return None
    return found["answer"]


def work(digits: Sequence[int], start: int = 0) -> str:
    """Each digit with the parity of the sum so far: " 3 odd 8 odd 5 even".

    Taking away and adding are the same to parity: from an answer as `start` it is the check of that answer.
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
