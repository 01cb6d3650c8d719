"""Two methods on the same problems: how far apart, and could that be chance?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from stepcredit.metrics.ranking import Estimate, mean_estimate


def paired_difference(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of a − b, with the 95% percentile bootstrap over problems.

    What makes a problem hard for both methods cancels, so that the interval is narrower than those of the
    two means suggest.

    Args:
        a, b: the score of either method in each row, shape [N]; a row is one problem, or one problem at one
            seed of both methods.
        groups: the problem of each row, shape [N]; whole problems are drawn. None: every row its own problem.
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: a and b differ in length.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"scores of shapes {x.shape} and {y.shape} cannot be paired")
    return mean_estimate(x - y, groups, resamples, seed)


class McNemar(NamedTuple):
    """Problems that only one of two methods gets right, and the chance of so uneven a split or a worse one."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """The exact test of whether two methods are right equally often on the same problems.

    Problems on which they agree say nothing; of the others either method wins half if they are equal, so
    that the number won by one is binomial. p is two-sided, and 1 where they agree everywhere.
    Source: McNemar (1947), in its exact form.

    Args:
        a, b: whether either method is right on each problem, shape [N]; one row a problem, not one a sample.

    Raises:
        ValueError: a and b differ in length.
    """
    x, y = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"scores of shapes {x.shape} and {y.shape} cannot be paired")
    only_a, only_b = int((x & ~y).sum()), int((y & ~x).sum())
    p = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p))
