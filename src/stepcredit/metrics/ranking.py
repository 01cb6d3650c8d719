"""AUC of a score between right and wrong responses, within prompts and across, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import ArrayLike

from stepcredit.metrics.accuracy import group_indices


class Estimate(NamedTuple):
    """An estimate with its 95% interval, and the numbers of independent groups and of pairs."""

    estimate: float
    low: float
    high: float
    groups: int
    pairs: int


class PairCounts(NamedTuple):
    """Per group: the number of correctly ranked (right, wrong) pairs, ties counting half, and of all pairs."""

    wins: Float[np.ndarray, " G"]
    pairs: Float[np.ndarray, " G"]


def pair_counts(
    scores: ArrayLike, right: ArrayLike, groups: ArrayLike, matched: Sequence[tuple[ArrayLike, float]] = ()
) -> PairCounts:
    """Counts the pairs of one right and one wrong response within each group, and those that are ranked correctly.

    Args:
        scores: one number per response, higher meaning more likely right, shape [N].
        right: whether each response is right, shape [N].
        groups: the prompt of each response; pairs are within prompts.
        matched: controls (numbers [N], tolerance): only pairs whose numbers differ by at most the tolerance count.
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
    """Estimates P(score of a right response > score of a wrong one to the same prompt); ties count half.

    All pairs have equal weight. The interval is the 95% percentile bootstrap, which resamples whole prompts, since
    responses to one prompt are not independent. Arguments are as in `pair_counts`. NaN without pairs.
    """
    counts = pair_counts(scores, right, groups, matched)
    return ratio_estimate(counts.wins, counts.pairs, resamples, seed)


def auc_across(
    scores: ArrayLike, right: ArrayLike, groups: ArrayLike, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Estimates P(score of a right response > score of a wrong one to any prompt); ties count half.

    A score that only predicts the difficulty of the prompt does well here and is at chance in `auc_within`. The
    interval is the 95% percentile bootstrap over prompts; resamples without a pair are ignored. NaN without pairs.

    Args:
        scores: one number per response, shape [N].
        right: whether each response is right, shape [N].
        groups: the prompt of each response; whole prompts are resampled, and one sampled twice has double weight.
        resamples, seed: the number of bootstrap resamples, and their seed.
    """
    y = np.asarray(right, dtype=bool)
    rank = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)[1]
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    n, pairs = int(group.max(initial=-1)) + 1, int(y.sum() * (~y).sum())
    if not pairs:
        return Estimate(float("nan"), float("nan"), float("nan"), n, 0)
    rng = np.random.default_rng(seed)
    estimates = [_weighted_auc(rank, y, rng.multinomial(n, np.full(n, 1 / n))[group]) for _ in range(resamples)]
    low, high = np.percentile([x for x in estimates if np.isfinite(x)] or [np.nan], [2.5, 97.5])
    return Estimate(_weighted_auc(rank, y, np.ones(len(y))), float(low), float(high), n, pairs)


def _weighted_auc(
    rank: Int[np.ndarray, " N"], right: Bool[np.ndarray, " N"], weight: Shaped[np.ndarray, " N"]
) -> float:
    """Returns the AUC in which a pair's weight is the product of its two weights; NaN if all are 0.

    Precomputed ranks make the cost of a resample N rather than N².
    """
    wrong = np.bincount(rank[~right], weights=weight[~right], minlength=int(rank.max()) + 1)
    below = np.cumsum(wrong) - wrong / 2
    total = float(weight[right].sum() * wrong.sum())
    return float(weight[right] @ below[rank[right]]) / total if total else float("nan")


def ratio_estimate(
    numerator: Float[np.ndarray, " G"], denominator: Float[np.ndarray, " G"], resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Estimates Σ numerator / Σ denominator over independent groups, with the 95% percentile bootstrap over groups."""
    n = len(numerator)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    draws = bootstrap_counts(n, resamples, seed)
    ratios = (draws @ numerator) / (draws @ denominator)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Estimate(float(numerator.sum() / denominator.sum()), float(low), float(high), n, int(denominator.sum()))


def mean_estimate(x: Float[np.ndarray, " N"], groups: ArrayLike | None, resamples: int, seed: int) -> Estimate:
    """Estimates the mean of numbers, with a bootstrap over groups; None: every number is its own group."""
    label = group_indices(len(x), groups)
    sums = np.bincount(label, weights=x).astype(np.float64)
    return ratio_estimate(sums, np.bincount(label).astype(np.float64), resamples, seed)


@lru_cache(maxsize=1)
def bootstrap_counts(n: int, resamples: int, seed: int) -> Float[np.ndarray, "R G"]:
    """Returns how often each of n groups occurs in each resample, [resamples, n]; cached for the next call."""
    rng = np.random.default_rng(seed)
    counts = np.stack([rng.multinomial(n, np.full(n, 1 / n)) for _ in range(resamples)]).astype(np.float64)
    counts.setflags(write=False)
    return counts
