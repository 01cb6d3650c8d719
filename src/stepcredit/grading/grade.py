"""Grade of one response."""

from __future__ import annotations

from dataclasses import dataclass

from stepcredit.verdict import Verdict


@dataclass(frozen=True)
class Grade:
    """Grade of one response.

    Attributes:
        verdict: right, wrong or undecided.
        extracted: the extracted answer, or None.
        reason: a short explanation.
        strict: whether the answer followed the marker that the prompt asked for.
    """

    verdict: Verdict
    extracted: str | None = None
    reason: str = ""
    strict: bool = True

    @property
    def reward(self) -> float | None:
        """1 for right, 0 for wrong, None for undecided."""
        return None if self.verdict is Verdict.UNDECIDED else float(self.verdict is Verdict.RIGHT)
