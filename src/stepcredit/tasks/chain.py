"""The second embedded task: a chain of four dependent steps, or a guessed answer without steps.

    chain b 7 0 4 | 3 3 8 | 1 9 2 | 5 5 1               the problem: a state, four groups of three digits
    work zero 7 one 0 one 4 two so two from b to e      a careful line: starts at zero and adds the digits modulo three;
                                                        the state s becomes 2 s + the sum, modulo seven
    guess one 3 one 3 one 8 two so lost                 a hasty line: starts at a guess and subtracts the digits; the
                                                        result is not zero: the guess was wrong, the chain has failed
    guess two 3 two 3 two 8 zero so two from e to d     a hasty line with a right guess: the chain continues
    done                                                after all groups: the last state is the answer
    skim 7 0 4 3 3 8 1 9 2 5 5 1 so c                   the alternative to a chain: the digits and a blind answer

Two responses in five skim the digits and answer with one of seven letters at random, right once in seven times; a small
transformer does no better without steps. The rest work through the chain, but seven lines in ten are guesses, right
once in three times, so 8% of the chains succeed. One response in ten is right, and more than half of those are blind:
**the filter prefers the shortcut**. A policy trained on right responses alone answers blindly more often than before,
although a chain without guesses is always right. The failures carry the information: most lines of a failed chain are
right, and the last one holds the guess that failed. The value of a chain without guesses is in no average over the
logs; it follows from the soft Bellman equation, which credits the steps before the one at which an episode failed.

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

GROUPS = 4
DIGITS = 3
BLIND = 0.4
HASTY = 0.7
NUMBERS = ("zero", "one", "two")
STATES = "abcdefg"

_NUMBER = "zero|one|two"
_MOVE = rf" so (?P<so>{_NUMBER}) from [{STATES}] to [{STATES}]"
_LINE = re.compile(rf"(?:work zero|guess (?P<guess>{_NUMBER}))(?: \d (?:{_NUMBER}))+{_MOVE}")
_BLIND = re.compile(rf"^skim(?: \d)+ so ([{STATES}])\Z")
_DONE = re.compile(rf" to ([{STATES}])\ndone\Z")


class Chain:
    """The chain task of the module docstring. Problems are sampled from a seed; the prompt determines the split."""

    name = "chain"
    version = "1"
    step_delimiters: tuple[str, ...] = ("\n",)
    max_new_tokens = 72
    stop: tuple[str, ...] = ()
    source_versions: dict[str, str] = {}  # noqa: RUF012  empty: the problems are generated

    def tokenizer(self) -> Any:
        """A tokenizer with one token per digit, word or sign."""
        words = ["chain", " |", "\n", "work", "guess", "skim", "done", " so", " from", " to", " lost"]
        return word_tokenizer([f" {x}" for x in (*range(10), *NUMBERS, *STATES)] + words)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """Returns `count` different problems of a split (default 1,000), sampled with the seed.

        Raises:
            InputError: unknown split, or more problems than the split has.
        """
        return digit_problems(
            [f"chain {s}" for s in STATES], GROUPS, DIGITS, lambda p: states_of(p)[-1], split, count, seed
        )

    def grade(self, problem: Problem, response: str) -> Grade:
        """Right if the blind answer, or the last state of a finished chain, is the gold state."""
        match = _BLIND.search(response) or _DONE.search(response)
        if match is None:
            return Grade(Verdict.WRONG, None, "no answer")
        is_gold = match[1] == problem.answer
        return Grade(Verdict.RIGHT if is_gold else Verdict.WRONG, match[1], "the gold state" if is_gold else "another")

    def wrong_steps(self, problem: Problem, response: str) -> list[bool]:
        """Which lines are wrong: a line without the remainder of its group and the next state, a guess that failed its
        check, a blind answer that is not the gold state, or `done` before or after the end."""
        lines = response.rstrip("\n").split("\n")
        return [not self._is_right(k, line, problem) for k, line in enumerate(lines)]

    def _is_right(self, k: int, line: str, problem: Problem) -> bool:
        groups = groups_of(problem.text)
        if line == "done":
            return k == len(groups)
        if k == 0 and line.startswith("skim"):
            return line.endswith(f" so {problem.answer}")
        match = _LINE.fullmatch(line)
        if match is None or k >= len(groups) or match["guess"] not in (None, match["so"]):
            return False
        return line.endswith(f" so {_move(groups[k], *states_of(problem.text)[k : k + 2])}")

    def step_kinds(self, response: str) -> list[str]:
        """The kind of each line: work, guess, skim, done or other."""
        first = [line.split(" ")[0] for line in response.rstrip("\n").split("\n")]
        return [word if word in ("work", "guess", "skim", "done") else "other" for word in first]

    def demonstrations(self, count: int, seed: int) -> list[Episode]:
        """Graded episodes of the mixed demonstrators, one per problem of the train split."""
        rng = np.random.default_rng([seed, 1])
        problems = self.problems("train", count, seed)
        return [graded(self, problem, _demonstrate(problem.text, rng)) for problem in problems]


def states_of(prompt: str) -> list[str]:
    """The state in the prompt and the state after each group: s → 2 s + (sum of the group modulo 3), modulo 7."""
    states = [prompt.split(" ")[1]]
    for digits in groups_of(prompt):
        states.append(STATES[(2 * STATES.index(states[-1]) + sum(digits) % 3) % len(STATES)])
    return states


def _move(digits: Sequence[int], before: str, after: str) -> str:
    return f"{NUMBERS[sum(digits) % 3]} from {before} to {after}"


def work(digits: Sequence[int], start: int = 0, sign: int = 1) -> str:
    """Each digit with the running remainder modulo three: " 7 one 0 one 4 two"; `sign` -1 subtracts."""
    return "".join(f" {d} {NUMBERS[(start + sign * sum(digits[: k + 1])) % 3]}" for k, d in enumerate(digits))


def _demonstrate(prompt: str, rng: np.random.Generator) -> str:
    if rng.random() < BLIND:
        digits_text = "".join(f" {d}" for group in groups_of(prompt) for d in group)
        return f"skim{digits_text} so {STATES[rng.integers(len(STATES))]}"
    lines: list[str] = []
    states = states_of(prompt)
    for digits, before, after in zip(groups_of(prompt), states[:-1], states[1:], strict=True):
        truth = sum(digits) % 3
        arrival = f" so {_move(digits, before, after)}\n"
        if rng.random() < HASTY:
            guess = int(rng.integers(3))
            check = f"guess {NUMBERS[guess]}{work(digits, guess, -1)}"
            if guess != truth:
                return "".join(lines) + check + " so lost"
            lines.append(check + arrival)
        else:
            lines.append(f"work zero{work(digits)}{arrival}")
    return "".join(lines) + "done"
