"""Answer formats: the marker that the prompt asks for, and the accepted alternatives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Marker(StrEnum):
    """Where an answer was found, most explicit first."""

    HASHES = "####"
    """What follows the first `####` on its line, as in GSM8K; `#### Step 1` is a heading and none."""
    BOXED = "boxed"
    """The content of the last `\\boxed{}`, as in MATH, with the boxes beside it."""
    PHRASE = "phrase"
    """What follows the last `A:`, `Answer:` or "the answer is"."""
    WHOLE = "whole"
    """All of a response that is nothing but an answer."""
    LAST = "last"
    """The last number, or the last formula, of the whole response."""


class Kind(StrEnum):
    """What an answer is."""

    AUTO = "auto"
    """What the gold answer is (see `stepcredit.grading.golds`)."""
    NUMBER = "number"
    """One number, as in GSM8K."""
    EXPRESSION = "expression"
    """Anything LaTeX can write, as in MATH."""
    WORDS = "words"
    """A name, a choice, yes or no."""


@dataclass(frozen=True)
class AnswerStyle:
    """What the prompt asks for.

    Attributes:
        marker: an answer behind this one counts as strict; None: behind `####` or in a box, whichever stands later.
        kind: what is looked for where no marker stands.
        several: whether the gold answer has several parts, which may stand in as many boxes or formulas.
    """

    marker: Marker | None
    kind: Kind
    several: bool = False

    def is_strict(self, marker: Marker) -> bool:
        """Whether an answer that was found behind a marker stands where the prompt asked for it."""
        return marker is self.marker or (self.marker is None and marker in (Marker.HASHES, Marker.BOXED))


GSM8K = AnswerStyle(Marker.HASHES, Kind.NUMBER)
MATH = AnswerStyle(Marker.BOXED, Kind.EXPRESSION)
AUTO = AnswerStyle(None, Kind.AUTO)
"""The gold answer decides."""
