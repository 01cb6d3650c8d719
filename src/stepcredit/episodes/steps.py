"""Segmentation of text and tokens into reasoning steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepcredit.errors import InputError


@dataclass(frozen=True)
class StepRule:
    """The rule that splits text into steps.

    Attributes:
        delimiters: a step ends after any of these strings and the white space that follows it, so blank lines are not
            steps. White space in a delimiter counts: "\\n" ends a line, ". " a sentence within a line. Empty: the
            whole turn is one step.
        max_tokens: a step without a delimiter ends after this many tokens; None: no limit.

    Raises:
        InputError: a delimiter is empty, or the limit is below 1.
    """

    delimiters: tuple[str, ...] = ("\n",)
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if "" in self.delimiters:
            raise InputError("a delimiter must not be empty", "step_delimiters")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"{self.max_tokens} must be 1 or more", "max_step_tokens")

    def ends(self, text: str) -> list[int]:
        """Returns the character offsets of step ends, ignoring `max_tokens`; the last is `len(text)`.

        >>> StepRule(("\\n",)).ends("a=1\\n\\nb=2\\nc")
        [5, 9, 10]
        """
        ends: list[int] = []
        position = len(text) - len(text.lstrip())
        while position < len(text):
            candidates = [at + len(d) for d in self.delimiters if (at := text.find(d, position)) >= 0]
            position = min(candidates, default=len(text))
            while position < len(text) and text[position].isspace():
                position += 1
            ends.append(position)
        return ends or [len(text)]

    def split(self, text: str) -> list[str]:
        """Splits `text` into steps, which concatenate to `text`.

        >>> StepRule((". ", "\\n")).split("Two. Three.\\nDone")
        ['Two. ', 'Three.\\n', 'Done']
        """
        ends = self.ends(text)
        return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def count(self, text: str) -> int:
        """Returns the number of steps of `text`."""
        if self.delimiters == ("\n",):  # a step a line with a word in it
            return len([line for line in text.split("\n") if line.strip()]) or 1
        return len(self.ends(text))


def preview(text: str, rule: StepRule) -> str:
    """Returns the steps of `text`, one numbered line per step."""
    return "\n".join(f"[{i}] {step!r}" for i, step in enumerate(rule.split(text)))


class OpenStep:
    """An unfinished step, extended token by token; defines step boundaries in training and in search.

    A token begins the next step if the current step is complete and the token is not only white space. So a delimiter
    may end inside the token that begins the next step, as ". " does in "." + " Then", and white space alone is never
    a step.

    Args:
        rule: the rule for step boundaries.
    """

    def __init__(self, rule: StepRule) -> None:
        self._rule = rule
        self._reach = max(1, *(len(d) - 1 for d in rule.delimiters), 1)
        self._tail = ""
        self._complete = False
        self.tokens = 0

    @property
    def full(self) -> bool:
        """Whether the step has `max_tokens` tokens, so that any token begins the next step."""
        return self._rule.max_tokens is not None and self.tokens >= self._rule.max_tokens

    def ends_before(self, text: str) -> bool:
        """Whether the step ends before a token with this text."""
        if self.full:
            return True
        word = text.lstrip()
        if not word or not self._tail:
            return False
        return self._complete or self._delimited(text[: len(text) - len(word)])

    def add(self, text: str) -> None:
        """Appends a token with this text."""
        self.tokens += 1
        if not self._tail:
            text = text.lstrip()  # white space before the first word ends nothing
        self._complete = self._complete or self._delimited(text)
        self._tail = (self._tail + text)[-self._reach :]

    def _delimited(self, text: str) -> bool:
        return any(d in self._tail + text for d in self._rule.delimiters)


def steps_of_tokens(texts: Sequence[str], rule: StepRule) -> NDArray[np.int64]:
    """Returns the step of each token of a turn by `rule`, from the token texts; shape [T]."""
    numbers, number, step = [], 0, OpenStep(rule)
    for text in texts:
        if step.ends_before(text):
            number, step = number + 1, OpenStep(rule)
        step.add(text)
        numbers.append(number)
    return np.asarray(numbers, dtype=np.int64)


def step_of_each_token(texts: Sequence[str], ends: Sequence[int]) -> NDArray[np.int64]:
    """Returns the step of each token, from the token texts and the character offsets of step ends; shape [T].

    A token belongs to the step of its first non-space character; a token of white space only (a line break after a
    full stop) belongs to the step of its first character. A step in which no token starts leaves a gap in the numbers.
    """
    step_of_token: list[int] = []
    offset, step = 0, 0
    for text in texts:
        lead = len(text) - len(text.lstrip())
        anchor = offset + (lead if lead < len(text) else 0)
        while step < len(ends) - 1 and anchor >= ends[step]:
            step += 1
        step_of_token.append(step)
        offset += len(text)
    return np.asarray(step_of_token, dtype=np.int64)
