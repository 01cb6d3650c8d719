"""Calibration of predicted success probabilities."""

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
    """The n states with predicted values in [low, high).

    `predicted` and `observed` are means over the states; `stderr` is the standard error of `observed`, NaN with fewer
    than two groups.
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
    """Compares predicted values with success rates, in bins of the predicted value; empty bins are left out.

    Args:
        predicted: V of each state, shape [N]; values beyond the edges count in the outermost bins, so a bin's mean
            prediction may lie outside the bin.
        right: the number of successful trials from each state, shape [N].
        trials: the number of trials, 1 or more, shape [N] or one number.
        edges: the increasing bin edges; the last bin includes its upper edge.
        groups: the prompt of each state, for the standard error (see `mean_and_stderr`).

    Raises:
        ValueError: a state has no trials, or a number is not finite.
    """
    value, rate, _ = _checked(predicted, right, trials)
    labels = group_indices(len(value), groups)
    index = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
    bins = []
    for k in np.unique(index):
        mask = index == k
        observed, stderr = mean_and_stderr(rate[mask], labels[mask])
        bins.append(Bin(edges[k], edges[k + 1], int(mask.sum()), float(value[mask].mean()), observed, stderr))
    return bins


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Returns Σ n/N |predicted − observed| over bins; NaN without bins.

    Biased upwards by the noise of `observed`, with few states or trials.
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
    """Estimates the mean of (V − p)² over states, with p the true success probability: the Brier score without noise.

    With a rate p̂ from m trials, E (V − p̂)² = (V − p)² + p(1 − p)/m. The noise term is estimated without bias by
    p̂(1 − p̂)/(m − 1) and subtracted, so the result can be slightly negative. The interval is a bootstrap over prompts.
    Arguments are as in `calibration`.

    Raises:
        ValueError: a state has fewer than two trials, or a number is not finite.
    """
    value, rate, m = _checked(predicted, right, trials)
    if (m < 2).any():
        raise ValueError("the noise of a success rate cannot be estimated from fewer than two trials")
    error = np.square(value - rate) - rate * (1 - rate) / (m - 1)
    return mean_estimate(error, groups, resamples, seed)


def _checked(
    predicted: ArrayLike, right: ArrayLike, trials: ArrayLike | int
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Returns (values, success rates, trials), each [N]."""
    value = np.asarray(predicted, dtype=np.float64)
    successes = np.asarray(right, dtype=np.float64)
    m = np.broadcast_to(np.asarray(trials, dtype=np.float64), value.shape)
    if successes.shape != value.shape or not (np.isfinite(value).all() and np.isfinite(successes).all()):
        raise ValueError("predicted and right must be finite, one number per state")
    if not (m >= 1).all() or (successes < 0).any() or (successes > m).any():
        raise ValueError("every state needs a trial, and no more successes than trials")
    return value, successes / m, m
