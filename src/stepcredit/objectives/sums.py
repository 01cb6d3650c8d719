"""Logged numbers from sums: what adds up over micro-batches and processes, and what is made of the totals in the end.

A mean, a spread or a share of one micro-batch says little of the optimizer step: with one episode in it every share is
1, and no variance is explained. So metrics leave the objectives as `Sums`, which are added up part by part, and become
a number once, of the totals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

WIDE = {"mps": torch.float32}
"""Sums are in double precision, but on devices that have none: a variance is a small difference of large sums."""


class Sums(NamedTuple):
    """A logged number before it is one.

    Attributes:
        formula: from the totals of `parts` to the number; NaN where they do not define it.
        parts: sums, each a scalar tensor without gradient.
    """

    formula: Callable[..., float]
    parts: tuple[Tensor, ...]

    def number(self) -> float:
        """What these sums alone give."""
        return self.formula(*(float(part) for part in self.parts))


def _wide(x: Shaped[Tensor, " *numbers"]) -> Float[Tensor, " *numbers"]:
    return x.to(WIDE.get(x.device.type, torch.float64))


def total(x: Shaped[Tensor, " *numbers"]) -> Float[Tensor, ""]:
    """Σ x, in double precision (see `WIDE`), without gradient."""
    return _wide(x.detach()).sum()


def count(x: Shaped[Tensor, " *numbers"]) -> Float[Tensor, ""]:
    """How many numbers x holds, where its sum is."""
    return total(torch.ones_like(x))


# ---- formulas: totals in, a number out --------------------------------------------------------------------


def mean(number: float, x: float) -> float:
    """Σ x / n; NaN of nothing."""
    return x / number if number else math.nan


def standard_deviation(number: float, x: float, square: float) -> float:
    """√(Σ x² / n - (Σ x / n)²), of the whole and not of a sample; NaN of nothing."""
    return math.sqrt(_variance(number, x, square))


def _variance(number: float, x: float, square: float) -> float:
    """Zero where it is less than 10⁻¹² of the mean square, as rounding leaves of numbers that are all the same."""
    if not number:
        return math.nan
    found = square / number - (x / number) ** 2
    return found if found > 1e-12 * square / number else 0.0


def effective_share(number: float, x: float, square: float) -> float:
    """(Σ x)² / (n Σ x²): 1 where all are equal, 1/n where one carries everything; NaN where all are zero."""
    return x**2 / (number * square) if square else math.nan


def explained_variance(number: float, error: float, error_square: float, target: float, target_square: float) -> float:
    """1 - Var(error) / Var(target); NaN where the target does not vary."""
    spread = _variance(number, target, target_square)
    return 1 - _variance(number, error, error_square) / spread if spread > 0 else math.nan


def difference_of_means(number: float, x: float, other_number: float, other: float) -> float:
    """The mean of one kind less that of another; NaN where there are none of either."""
    return mean(number, x) - mean(other_number, other)


# ---- numbers in, sums out ---------------------------------------------------------------------------------


def _moments(x: Float[Tensor, " *numbers"]) -> tuple[Tensor, Tensor, Tensor]:
    """n, Σ x and Σ x²."""
    return count(x), total(x), total(_wide(x).square())


def mean_of(x: Shaped[Tensor, " *numbers"]) -> Sums:
    """The mean of all numbers."""
    return Sums(mean, (count(x), total(x)))


def spread_of(x: Float[Tensor, " *numbers"]) -> Sums:
    """Their standard deviation."""
    return Sums(standard_deviation, _moments(x))


def effective_share_of(weight: Float[Tensor, " B"]) -> Sums:
    """How many of the weights count: (Σ w)² / (n Σ w²)."""
    return Sums(effective_share, _moments(weight))


def explained_of(error: Float[Tensor, " N"], target: Float[Tensor, " N"]) -> Sums:
    """How much of the target's variance is no error."""
    return Sums(explained_variance, (*_moments(error), *_moments(target)[1:]))


def difference_of(x: Float[Tensor, " B"], first: Bool[Tensor, " B"]) -> Sums:
    """The mean where `first` is true less the mean where it is not."""
    zero = torch.zeros_like(x)
    ours, theirs = torch.where(first, x, zero), torch.where(first, zero, x)
    return Sums(difference_of_means, (total(first), total(ours), total(~first), total(theirs)))


def mean_where(x: Float[Tensor, " B"], where: Bool[Tensor, " B"]) -> Sums:
    """The mean of the numbers where `where` is true."""
    return Sums(mean, (total(where), total(torch.where(where, x, torch.zeros_like(x)))))
