"""Paired comparisons of two methods on the same problems."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from stepcredit.metrics.accuracy import group_indices
from stepcredit.metrics.ranking import Estimate, mean_estimate


def paired_difference(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Estimates the mean of a − b, with the 95% percentile bootstrap over problems.

    The difficulty of a problem for both methods cancels, so the interval is narrower than those of the two means
    suggest.

    Args:
        a, b: the scores of the two methods, shape [N]; a row is one problem, or one problem at one seed of both
            methods.
        groups: the problem of each row, shape [N]; whole problems are resampled. None: every row is its own problem.
        resamples, seed: the number of bootstrap resamples, and their seed.

    Raises:
        ValueError: a and b differ in shape.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"scores of shapes {x.shape} and {y.shape} cannot be paired")
    return mean_estimate(x - y, groups, resamples, seed)


class McNemar(NamedTuple):
    """The numbers of problems that only one of two methods solves, and the p-value of their difference."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None) -> McNemar:
    """McNemar's exact test of whether two methods are right equally often on the same problems.

    Under the null hypothesis, each method wins half of the problems on which they differ, so the number of wins is
    binomial. p is two-sided, and 1 if they agree on all problems. Source: McNemar (1947), in its exact form. Where a
    problem has several rows, it is won by the method that is right in more of them (the sign test).

    Args:
        a, b: whether each method is right, shape [N]; a row is one problem, or one problem at one seed of both methods.
        groups: the problem of each row, shape [N]. None: every row is its own problem.

    Raises:
        ValueError: a and b differ in shape.
    """
    x, y = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"scores of shapes {x.shape} and {y.shape} cannot be paired")
    lead = np.bincount(group_indices(len(x), groups), weights=x.astype(int) - y.astype(int))
    only_a, only_b = int((lead > 0).sum()), int((lead < 0).sum())
    p = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p))
