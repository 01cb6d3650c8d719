"""Does the largest drop in value point at the first wrong step?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stepcredit.metrics.ranking import Estimate, ratio_estimate


class StepCredit(NamedTuple):
    """One response cut into steps: the change of value over each, and which of them are wrong."""

    change: Sequence[float]
    wrong: Sequence[bool]


def largest_drop(change: ArrayLike) -> int:
    """The step with the most negative change; the first of equals."""
    return int(np.argmin(np.asarray(change, dtype=np.float64)))


def first_wrong_step_found(
    responses: Sequence[StepCredit], groups: Sequence[str], resamples: int = 2000, seed: int = 0
) -> tuple[Estimate, float]:
    """(share of responses with a wrong step whose largest drop is the first wrong one, share by chance).

    Chance picks any of a response's steps: the mean of 1 / number of steps. The interval is a bootstrap over
    prompts (`groups`). Responses without a wrong step do not count.
    """
    hits: dict[str, list[float]] = {}
    chance: list[float] = []
    for (change, wrong), group in zip(responses, groups, strict=True):
        if any(wrong):
            hits.setdefault(group, []).append(float(largest_drop(change) == list(wrong).index(True)))
            chance.append(1 / len(wrong))
    numerator = np.array([sum(h) for h in hits.values()])
    denominator = np.array([float(len(h)) for h in hits.values()])
    by_chance = float(np.mean(chance)) if chance else float("nan")
    return ratio_estimate(numerator, denominator, resamples, seed), by_chance
