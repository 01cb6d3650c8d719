"""Accuracy and its standard error."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike


def group_indices(n: int, groups: ArrayLike | None) -> Int[np.ndarray, " N"]:
    """Returns the group index of each row, in sorted order of the group names; None: every row is its own group."""
    return np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]


def mean_and_stderr(scores: ArrayLike, groups: ArrayLike | None = None) -> tuple[float, float]:
    """Returns the mean of scores and its standard error.

    Args:
        scores: one number per response, shape [N].
        groups: the prompt of each response. Responses to one prompt are not independent, so the standard error is
            clustered by prompt. None: every response is its own group.

    Returns:
        (mean, standard error); the error is NaN with fewer than two groups.

    Source of the clustered form: Miller, "Adding error bars to evals" (arXiv 2411.00640), equation 4.
    """
    x = np.asarray(scores, dtype=np.float64)
    mean = float(x.mean()) if len(x) else float("nan")
    sums = np.bincount(group_indices(len(x), groups), weights=x - mean) if len(x) else np.zeros(0)
    if len(sums) < 2:
        return mean, float("nan")
    small_sample = len(sums) / (len(sums) - 1)
    return mean, float(np.sqrt(small_sample * np.square(sums).sum()) / len(x))
