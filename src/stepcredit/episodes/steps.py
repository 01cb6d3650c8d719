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

    Raises:
        InputError: an empty delimiter, which would end a step everywhere.
    """

    delimiters: tuple[str, ...] = ("\n",)

    def __post_init__(self) -> None:
        if "" in self.delimiters:
            raise InputError("an empty string delimits nothing", "step_delimiters")

    def ends(self, text: str) -> list[int]:
        """The character offsets at which steps of `text` end; the last is always `len(text)`.

        >>> StepRule(("\\n",)).ends("a=1\\n\\nb=2\\nc")
        [5, 9, 10]
        """
        ends: list[int] = []
        position = 0
        while position < len(text):
            found = [at + len(d) for d in self.delimiters if (at := text.find(d, position)) >= 0]
            position = min(found, default=len(text))
            while position < len(text) and text[position].isspace():
                position += 1
            ends.append(position)
        return ends or [0]

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


def step_of_each_token(pieces: Sequence[str], ends: Sequence[int]) -> NDArray[np.int64]:
    """The step of each token, from the text of each token and the offsets where steps end; shape [T].

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
