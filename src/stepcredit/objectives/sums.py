"""Metrics as sums that add up over micro-batches and processes.

A mean, standard deviation or share cannot be averaged over micro-batches: with one episode each, every share is 1 and
no variance is explained. Objectives therefore return metrics as `Sums`, which are added part by part; the number is
computed once, from the totals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

WIDE = {"mps": torch.float32}
"""Devices without double precision. Elsewhere sums have it: a variance is a small difference of large sums."""


class Sums(NamedTuple):
    """The sums from which a metric is computed.

    Attributes:
        formula: computes the metric from the totals of `parts`; NaN if it is undefined.
        parts: sums, each a scalar tensor without gradient.
    """

    formula: Callable[..., float]
    parts: tuple[Tensor, ...]

    def number(self) -> float:
        """Returns the metric of these sums."""
        return self.formula(*(float(part) for part in self.parts))


def _wide(x: Shaped[Tensor, " *numbers"]) -> Float[Tensor, " *numbers"]:
    return x.to(WIDE.get(x.device.type, torch.float64))


def total(x: Shaped[Tensor, " *numbers"]) -> Float[Tensor, ""]:
    """Returns Σ x in double precision (see `WIDE`), without gradient."""
    return _wide(x.detach()).sum()


def count(x: Shaped[Tensor, " *numbers"]) -> Float[Tensor, ""]:
    """Returns the number of entries of x, on its device."""
    return total(torch.ones_like(x))


# ---- formulas: totals in, a number out --------------------------------------------------------------------


def mean(number: float, x: float) -> float:
    """Returns Σ x / n; NaN if n is 0."""
    return x / number if number else math.nan


def standard_deviation(number: float, x: float, square: float) -> float:
    """Returns the population standard deviation √(Σ x² / n - (Σ x / n)²); NaN if n is 0."""
    return math.sqrt(_variance(number, x, square))


def _variance(number: float, x: float, square: float) -> float:
    """Returns the variance; zero below 10⁻¹² of the mean square, the rounding error of equal numbers."""
    if not number:
        return math.nan
    found = square / number - (x / number) ** 2
    return found if found > 1e-12 * square / number else 0.0


def effective_share(number: float, x: float, square: float) -> float:
    """Returns (Σ x)² / (n Σ x²): 1 if all are equal, 1/n if only one is nonzero; NaN if all are zero."""
    return x**2 / (number * square) if square else math.nan


def explained_variance(number: float, error: float, error_square: float, target: float, target_square: float) -> float:
    """Returns 1 - Var(error) / Var(target); NaN if the target does not vary."""
    spread = _variance(number, target, target_square)
    return 1 - _variance(number, error, error_square) / spread if spread > 0 else math.nan


def difference_of_means(number: float, x: float, other_number: float, other: float) -> float:
    """Returns the difference of two means; NaN if either is undefined."""
    return mean(number, x) - mean(other_number, other)


# ---- numbers in, sums out ---------------------------------------------------------------------------------


def _moments(x: Float[Tensor, " *numbers"]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns n, Σ x and Σ x²."""
    return count(x), total(x), total(_wide(x).square())


def mean_of(x: Shaped[Tensor, " *numbers"]) -> Sums:
    """Returns the sums of the mean."""
    return Sums(mean, (count(x), total(x)))


def spread_of(x: Float[Tensor, " *numbers"]) -> Sums:
    """Returns the sums of the standard deviation."""
    return Sums(standard_deviation, _moments(x))


def effective_share_of(weight: Float[Tensor, " B"]) -> Sums:
    """Returns the sums of the effective share of weights, (Σ w)² / (n Σ w²)."""
    return Sums(effective_share, _moments(weight))


def explained_of(error: Float[Tensor, " N"], target: Float[Tensor, " N"]) -> Sums:
    """Returns the sums of the explained variance of the target."""
    return Sums(explained_variance, (*_moments(error), *_moments(target)[1:]))


def difference_of(x: Float[Tensor, " B"], first: Bool[Tensor, " B"]) -> Sums:
    """Returns the sums of the mean where `first` is true minus the mean where it is false."""
    zero = torch.zeros_like(x)
    ours, theirs = torch.where(first, x, zero), torch.where(first, zero, x)
    return Sums(difference_of_means, (total(first), total(ours), total(~first), total(theirs)))


def mean_where(x: Float[Tensor, " B"], where: Bool[Tensor, " B"]) -> Sums:
    """Returns the sums of the mean where `where` is true."""
    return Sums(mean, (total(where), total(torch.where(where, x, torch.zeros_like(x)))))
