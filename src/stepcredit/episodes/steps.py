"""Where one reasoning step ends and the next begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepcredit.errors import InputError


@dataclass(frozen=True)
class StepRule:
    """How text is cut into steps.

    Attributes:
        delimiters: a step ends after any of these strings. Whitespace that follows belongs to the step
            that it ends, so blank lines make no steps of their own. Empty: the whole turn is one step.
            White space around a delimiter counts: "\\n" is a line, ". " a sentence end inside a line.
        max_tokens: a step without a delimiter ends after so many tokens; None is no limit.

    Raises:
        InputError: an empty delimiter, which would end a step everywhere, or a limit below 1.
    """

    delimiters: tuple[str, ...] = ("\n",)
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if "" in self.delimiters:
            raise InputError("an empty string delimits nothing", "step_delimiters")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"{self.max_tokens} must be 1 or more", "max_step_tokens")

    def ends(self, text: str) -> list[int]:
        """The character offsets at which steps of `text` end, without the limit; the last is always `len(text)`.

        >>> StepRule(("\\n",)).ends("a=1\\n\\nb=2\\nc")
        [5, 9, 10]
        """
        ends: list[int] = []
        position = len(text) - len(text.lstrip())
        while position < len(text):
            found = [at + len(d) for d in self.delimiters if (at := text.find(d, position)) >= 0]
            position = min(found, default=len(text))
            while position < len(text) and text[position].isspace():
                position += 1
            ends.append(position)
        return ends or [len(text)]

    def split(self, text: str) -> list[str]:
        """The steps of `text`, as text; joined they are `text` again.

        >>> StepRule((". ", "\\n")).split("Two. Three.\\nDone")
        ['Two. ', 'Three.\\n', 'Done']
        """
        ends = self.ends(text)
        return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def preview(text: str, rule: StepRule) -> str:
    """`text` with a number before every step, to look at a setting before it is used."""
    return "\n".join(f"[{i}] {step!r}" for i, step in enumerate(rule.split(text)))


class OpenStep:
    """A step in the making, token by token: the one answer to where a step ends, in training and in search.

    A token begins the next step where the step before it is complete and the token has more than white space: the
    state before it is where a step ends. So a delimiter may end inside the token that begins the next step, as ". "
    does in "." + " Then", and white space of its own makes no step.

    Args:
        rule: where steps end.
    """

    def __init__(self, rule: StepRule) -> None:
        self._rule = rule
        self._reach = max(1, *(len(d) - 1 for d in rule.delimiters), 1)
        self._tail = ""
        self._complete = False
        self.tokens = 0

    @property
    def full(self) -> bool:
        """Whether the step has as many tokens as a step may have: whatever comes begins the next one."""
        return self._rule.max_tokens is not None and self.tokens >= self._rule.max_tokens

    def begun_by(self, text: str) -> bool:
        """Whether the next token, with this text, begins the next step."""
        if self.full:
            return True
        word = text.lstrip()
        if not word or not self._tail:
            return False
        return self._complete or self._delimited(text[: len(text) - len(word)])

    def add(self, text: str) -> None:
        """Append a token with this text to the step."""
        self.tokens += 1
        if not self._tail:
            text = text.lstrip()  # white space before the first word ends nothing
        self._complete = self._complete or self._delimited(text)
        self._tail = (self._tail + text)[-self._reach :]

    def _delimited(self, more: str) -> bool:
        return any(d in self._tail + more for d in self._rule.delimiters)


def steps_of_tokens(texts: Sequence[str], rule: StepRule) -> NDArray[np.int64]:
    """The step of each token of a turn by `rule`, from the text of each; shape [T]."""
    numbers, number, step = [], 0, OpenStep(rule)
    for text in texts:
        if step.begun_by(text):
            number, step = number + 1, OpenStep(rule)
        step.add(text)
        numbers.append(number)
    return np.asarray(numbers, dtype=np.int64)


def step_of_each_token(pieces: Sequence[str], ends: Sequence[int]) -> NDArray[np.int64]:
    """The step of each token by given offsets where steps end in the text, from the text of each token; shape [T].

    A token belongs to the step that its first non-space character lies in; a token of white space alone
    (a line break after a full stop) to the step of the character it starts with. A step that no token
    starts in leaves a gap in the numbers.
    """
    step_of_token: list[int] = []
    offset, step = 0, 0
    for piece in pieces:
        lead = len(piece) - len(piece.lstrip())
        anchor = offset + (lead if lead < len(piece) else 0)
        while step < len(ends) - 1 and anchor >= ends[step]:
            step += 1
        step_of_token.append(step)
        offset += len(piece)
    return np.asarray(step_of_token, dtype=np.int64)
