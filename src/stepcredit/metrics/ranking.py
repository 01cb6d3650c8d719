"""How well a score ranks right above wrong responses to the same prompt, with a bootstrap interval."""

from __future__ import annotations

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


def pair_counts(scores: ArrayLike, right: ArrayLike, groups: ArrayLike, strata: ArrayLike | None = None) -> PairCounts:
    """Pairs of one right and one wrong response within each group.

    Args:
        scores: one number a response, higher meaning more likely right, shape [N].
        right: whether it is right.
        groups: the prompt of each response; pairs never cross prompts.
        strata: if given, pairs are also of equal stratum: what is matched on explains nothing.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    cell = group if strata is None else _combine(group, np.unique(np.asarray(strata), return_inverse=True)[1])
    count = int(group.max(initial=-1)) + 1
    wins, pairs = np.zeros(count), np.zeros(count)
    order = np.argsort(cell, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        good, bad = s[members][y[members]], s[members][~y[members]]
        if len(good) and len(bad):
            difference = good[:, None] - bad[None, :]
            wins[group[members[0]]] += (difference > 0).sum() + 0.5 * (difference == 0).sum()
            pairs[group[members[0]]] += difference.size
    used = pairs > 0
    return PairCounts(wins[used], pairs[used])


def _combine(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    return a * (int(b.max(initial=0)) + 1) + b


def auc_within(
    scores: ArrayLike,
    right: ArrayLike,
    groups: ArrayLike,
    strata: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """P(score of a right response > score of a wrong one to the same prompt), ties counting half.

    All pairs weigh the same. The interval is the 95% percentile bootstrap over prompts, whole prompts being
    drawn, since responses to one prompt are not independent. Arguments as in `pair_counts`. NaN without pairs.
    """
    counts = pair_counts(scores, right, groups, strata)
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
