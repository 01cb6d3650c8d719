"""The verdict on an answer. It stands below every room because episodes carry it and graders give it."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What grading found. `UNDECIDED` (a time-out, an outage, an error) is never a reward of 0."""

    RIGHT = "right"
    WRONG = "wrong"
    UNDECIDED = "undecided"


REWARD_THRESHOLD = 1.0
"""A response without a verdict is right from this reward on."""
