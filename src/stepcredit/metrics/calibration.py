"""Does a predicted chance of success come true as often as it says?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stepcredit.metrics.accuracy import group_indices, mean_and_stderr
from stepcredit.metrics.ranking import Estimate, mean_estimate

TENTHS = tuple(k / 10 for k in range(11))


class Bin(NamedTuple):
    """States whose predicted value lies in [low, high): how many, what was predicted, what came true.

    `predicted` and `observed` are means over the states; `stderr` is that of `observed`, NaN with fewer than
    two groups.
    """

    low: float
    high: float
    n: int
    predicted: float
    observed: float
    stderr: float


def calibration(
    predicted: ArrayLike,
    right: ArrayLike,
    trials: ArrayLike | int,
    edges: Sequence[float] = TENTHS,
    groups: ArrayLike | None = None,
) -> list[Bin]:
    """Predicted values against success rates, in bins of the predicted value; empty bins are left out.

    Args:
        predicted: V of each state, shape [N]; what lies beyond the edges counts to the outermost bins, so
            that a bin's mean prediction may lie outside it.
        right: how many of the trials from each state succeeded, shape [N].
        trials: how many there were, 1 or more, shape [N] or one number.
        edges: of the bins, rising; the last bin holds its upper edge.
        groups: the prompt of each state, for the standard error (see `mean_and_stderr`).

    Raises:
        ValueError: a state without trials, or a number that is not finite.
    """
    value, rate, _ = _checked(predicted, right, trials)
    labels = group_indices(len(value), groups)
    place = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
    bins = []
    for k in np.unique(place):
        here = place == k
        observed, stderr = mean_and_stderr(rate[here], labels[here])
        bins.append(Bin(edges[k], edges[k + 1], int(here.sum()), float(value[here].mean()), observed, stderr))
    return bins


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Σ n/N |predicted − observed| over bins; NaN without bins.

    Noise in `observed` can only add to it: with few states or trials it lies above the truth.
    """
    if not bins:
        return float("nan")
    return sum(b.n * abs(b.predicted - b.observed) for b in bins) / sum(b.n for b in bins)


def squared_error(
    predicted: ArrayLike,
    right: ArrayLike,
    trials: ArrayLike | int,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean of (V − p)² over states, p being the true chance of success: the Brier score without its noise.

    A rate p̂ from m trials is off by chance: E (V − p̂)² = (V − p)² + p(1 − p)/m. That noise is estimated
    without bias by p̂(1 − p̂)/(m − 1) and taken off, so that the result can fall a little below zero.
    The interval is a bootstrap over prompts. Arguments as in `calibration`.

    Raises:
        ValueError: fewer than two trials from a state, or a number that is not finite.
    """
    value, rate, m = _checked(predicted, right, trials)
    if (m < 2).any():
        raise ValueError("the noise of a success rate cannot be told from fewer than two trials")
    error = np.square(value - rate) - rate * (1 - rate) / (m - 1)
    return mean_estimate(error, groups, resamples, seed)


def _checked(
    predicted: ArrayLike, right: ArrayLike, trials: ArrayLike | int
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """(values, success rates, trials), each [N]."""
    value = np.asarray(predicted, dtype=np.float64)
    won = np.asarray(right, dtype=np.float64)
    m = np.broadcast_to(np.asarray(trials, dtype=np.float64), value.shape)
    if won.shape != value.shape or not (np.isfinite(value).all() and np.isfinite(won).all()):
        raise ValueError("predicted and right must be finite, one number a state")
    if not (m >= 1).all() or (won < 0).any() or (won > m).any():
        raise ValueError("every state needs a trial, and no more successes than trials")
    return value, won / m, m
