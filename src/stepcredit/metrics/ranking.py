"""How well a score ranks right above wrong responses to the same prompt, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Estimate(NamedTuple):
    """A number, its 95% interval, and how many independent groups and pairs it rests on."""

    estimate: float
    low: float
    high: float
    groups: int
    pairs: int


class PairCounts(NamedTuple):
    """Per group: how many (right, wrong) pairs are ranked rightly, ties counting half; how many there are."""

    wins: NDArray[np.float64]
    pairs: NDArray[np.float64]


def pair_counts(
    scores: ArrayLike, right: ArrayLike, groups: ArrayLike, matched: Sequence[tuple[ArrayLike, float]] = ()
) -> PairCounts:
    """Pairs of one right and one wrong response within each group.

    Args:
        scores: one number a response, higher meaning more likely right, shape [N].
        right: whether it is right.
        groups: the prompt of each response; pairs never cross prompts.
        matched: (numbers [N], tolerance): only pairs whose numbers differ by no more than the tolerance
            count, so that what is matched on cannot explain the ranking.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    controls = [(np.asarray(x, dtype=np.float64), tolerance) for x, tolerance in matched]
    wins, pairs = [], []
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        good, bad = members[y[members]], members[~y[members]]
        close = np.ones((len(good), len(bad)), dtype=bool)
        for x, tolerance in controls:
            close &= np.abs(x[good][:, None] - x[bad][None, :]) <= tolerance
        if close.any():
            difference = (s[good][:, None] - s[bad][None, :])[close]
            wins.append((difference > 0).sum() + 0.5 * (difference == 0).sum())
            pairs.append(difference.size)
    return PairCounts(np.array(wins, dtype=np.float64), np.array(pairs, dtype=np.float64))


def auc_within(
    scores: ArrayLike,
    right: ArrayLike,
    groups: ArrayLike,
    matched: Sequence[tuple[ArrayLike, float]] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """P(score of a right response > score of a wrong one to the same prompt), ties counting half.

    All pairs weigh the same. The interval is the 95% percentile bootstrap over prompts, whole prompts being
    drawn, since responses to one prompt are not independent. Arguments as in `pair_counts`. NaN without pairs.
    """
    counts = pair_counts(scores, right, groups, matched)
    return ratio_estimate(counts.wins, counts.pairs, resamples, seed)


def ratio_estimate(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Σ numerator / Σ denominator over independent groups, with the 95% percentile bootstrap over groups."""
    n = len(numerator)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    rng = np.random.default_rng(seed)
    draws = np.stack([rng.multinomial(n, np.full(n, 1 / n)) for _ in range(resamples)])
    ratios = (draws @ numerator) / (draws @ denominator)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Estimate(float(numerator.sum() / denominator.sum()), float(low), float(high), n, int(denominator.sum()))
