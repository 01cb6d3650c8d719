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
    return auc_in_strata(scores, right, groups, np.zeros(np.size(right)), resamples, seed)


def auc_in_strata(
    scores: ArrayLike, right: ArrayLike, groups: ArrayLike, strata: ArrayLike, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Estimates P(score of a right row > score of a wrong row of the same stratum, of any group); ties count half.

    All pairs have equal weight. A score that depends on the stratum alone gets one half. The interval is the 95%
    percentile bootstrap over groups; resamples without a pair are ignored. NaN without pairs.

    Args:
        scores: one number per row, such as the change of value over a step, shape [N].
        right: whether each row is right, shape [N].
        groups: the problem of each row; whole problems are resampled, and one sampled twice has double weight.
        strata: the stratum of each row, such as the position and kind of a step; pairs are within strata.
        resamples, seed: the number of bootstrap resamples, and their seed.
    """
    y = np.asarray(right, dtype=bool)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    n = int(group.max(initial=-1)) + 1
    order = _StratifiedOrder.of(scores, y, strata)
    wins, pairs = (float(x[0]) for x in order.won_and_all(np.ones((1, len(y)))))
    if not pairs:
        return Estimate(float("nan"), float("nan"), float("nan"), n, 0)
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    at_once = max(1, _AT_ONCE // len(y))
    for start in range(0, resamples, at_once):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(at_once, resamples - start))
        won, compared = order.won_and_all(counts[:, group])
        drawn += (won[compared > 0] / compared[compared > 0]).tolist()
    low, high = np.percentile(drawn or [np.nan], [2.5, 97.5])
    return Estimate(wins / pairs, float(low), float(high), n, int(pairs))


_AT_ONCE = 2**20
"""Weights of rows that are in memory at once."""


class _StratifiedOrder(NamedTuple):
    """Rows by stratum, then score; pairs are counted from running sums, in N steps rather than N²."""

    order: Int[np.ndarray, " N"]
    first_of_score: Int[np.ndarray, " U"]
    """Where each score of a stratum begins in this order."""
    score: Int[np.ndarray, " N"]
    """The number of the score of each row, in this order."""
    first: Int[np.ndarray, " N"]
    end: Int[np.ndarray, " N"]
    """Numbers of the first score of the row's stratum, and of that after its last."""
    right: Bool[np.ndarray, " N"]

    @classmethod
    def of(cls, scores: ArrayLike, right: Bool[np.ndarray, " N"], strata: ArrayLike) -> _StratifiedOrder:
        """Sorts the rows."""
        x = np.asarray(scores, dtype=np.float64)
        stratum = np.unique(np.asarray(strata), return_inverse=True)[1]
        order = np.lexsort((x, stratum))
        is_new = np.ones(len(order), dtype=bool)
        is_new[1:] = (np.diff(x[order]) != 0) | (np.diff(stratum[order]) != 0)
        score, begins = np.cumsum(is_new) - 1, np.flatnonzero(is_new)
        of_score = stratum[order][begins]
        first, end = (np.searchsorted(of_score, stratum[order], side) for side in ("left", "right"))
        return cls(order, begins, score, first, end, right[order])

    def won_and_all(self, weight: Shaped[np.ndarray, "R N"]) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
        """Returns (won pairs, ties counting half, all pairs) for each weighting of the rows.

        The weight of a pair is the product of its two.
        """
        if not len(self.order):
            return np.zeros(len(weight)), np.zeros(len(weight))
        w = weight[:, self.order].astype(np.float64)
        wrong = np.add.reduceat(np.where(self.right, 0.0, w), self.first_of_score, axis=1)
        before = np.concatenate([np.zeros((len(w), 1)), np.cumsum(wrong, axis=1)], axis=1)
        score, first, end = self.score[self.right], self.first[self.right], self.end[self.right]
        below = (before[:, score] + before[:, score + 1]) / 2 - before[:, first]
        mine = w[:, self.right]
        return (mine * below).sum(1), (mine * (before[:, end] - before[:, first])).sum(1)


def auc_difference(
    a: ArrayLike,
    b: ArrayLike,
    right: ArrayLike,
    groups: ArrayLike,
    matched: Sequence[tuple[ArrayLike, float]] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimates the AUC within prompts of score a minus that of score b, on the same pairs.

    The interval is the 95% percentile bootstrap over prompts of the difference itself, which is narrower than those of
    the two AUCs suggest. Other arguments are as in `auc_within`.
    """
    of_a, of_b = (pair_counts(scores, right, groups, matched) for scores in (a, b))
    return ratio_estimate(of_a.wins - of_b.wins, of_a.pairs, resamples, seed)


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
