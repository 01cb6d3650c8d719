"""Sums of parts against the statistics of the whole, and what the formulas say where nothing is defined."""

import statistics
from math import isnan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.objectives.sums import (
    Sums,
    count,
    difference_of,
    effective_share,
    effective_share_of,
    explained_of,
    explained_variance,
    mean,
    mean_of,
    mean_where,
    spread_of,
    standard_deviation,
    total,
)

F = torch.float64
numbers = st.lists(st.floats(-50, 50), min_size=2, max_size=12)


def added(parts):
    """What totals over several micro-batches come to."""
    (formula,) = {sums.formula for sums in parts}
    return Sums(formula, tuple(torch.stack(same).sum() for same in zip(*(sums.parts for sums in parts)))).number()


@given(numbers, st.integers(1, 11))
def test_parts_add_up_to_the_whole(x, at):
    cut = min(at, len(x) - 1)
    parts = [torch.tensor(x[:cut], dtype=F), torch.tensor(x[cut:], dtype=F)]
    assert added([mean_of(p) for p in parts]) == pytest.approx(statistics.fmean(x), abs=1e-9)
    assert added([spread_of(p) for p in parts]) == pytest.approx(statistics.pstdev(x), abs=1e-4)
    weight = [abs(number) + 0.1 for number in x]
    share = sum(weight) ** 2 / (len(x) * sum(w * w for w in weight))
    assert added([effective_share_of(p.abs() + 0.1) for p in parts]) == pytest.approx(share)
    where = [p > 0 for p in parts]
    chosen, others = [n for n in x if n > 0], [n for n in x if n <= 0]
    found = added([mean_where(p, w) for p, w in zip(parts, where)])
    assert found == pytest.approx(statistics.fmean(chosen)) if chosen else isnan(found)
    apart = added([difference_of(p, w) for p, w in zip(parts, where)])
    if chosen and others:
        assert apart == pytest.approx(statistics.fmean(chosen) - statistics.fmean(others))
    else:
        assert isnan(apart)


def test_explained_variance_by_hand():
    """Errors 1, 0, -1, 0: variance 1/2; targets 0, 2, 0, 2: variance 1. In parts, one of them without any spread."""
    error, target = torch.tensor([1.0, 0.0, -1.0, 0.0]), torch.tensor([0.0, 2.0, 0.0, 2.0])
    assert explained_of(error, target).number() == 0.5
    assert added([explained_of(error[k : k + 1], target[k : k + 1]) for k in range(4)]) == 0.5
    assert isnan(explained_of(error[:1], target[:1]).number())


def test_shares_by_hand():
    assert effective_share_of(torch.ones(4)).number() == 1
    assert effective_share_of(torch.tensor([1.0, 0.0, 0.0, 0.0])).number() == 0.25
    assert effective_share_of(torch.tensor([3.0, 1.0])).number() == pytest.approx(16 / 20)
    alone = [effective_share_of(torch.tensor([w])) for w in (3.0, 1.0)]
    assert [sums.number() for sums in alone] == [1, 1]
    assert added(alone) == pytest.approx(16 / 20)


def test_nothing_is_said_of_nothing():
    assert all(map(isnan, (mean(0.0, 0.0), standard_deviation(0.0, 0.0, 0.0), effective_share(3.0, 0.0, 0.0))))
    assert isnan(explained_variance(3.0, 1.0, 2.0, 0.0, 0.0))
    assert isnan(explained_variance(0.0, 0.0, 0.0, 0.0, 0.0))


def test_sums_are_in_double_precision_and_carry_no_gradient():
    """Around 1000 a spread of 0.01 is lost in the squares of single precision."""
    x = (1000 + 0.01 * torch.tensor([1.0, -1.0] * 50, dtype=F)).float().requires_grad_()
    exact = statistics.pstdev(x.tolist())
    assert spread_of(x).number() == pytest.approx(exact, rel=1e-3)
    for sums in (spread_of(x), mean_of(x), explained_of(x, x), mean_where(x, x > 0), difference_of(x, x > 1000)):
        assert all(part.dtype == F and not part.requires_grad and part.shape == () for part in sums.parts)
    assert (total(x).dtype, count(x).item(), total(x > 1000).item()) == (F, 100, 50)


def test_equal_numbers_have_no_spread():
    """0.7 in single precision, a million times, in sums that round: no variance, and so none to explain."""
    parts = [spread_of(torch.full((1000,), 0.7)) for _ in range(7)]
    assert added(parts) == 0
    constant = explained_of(torch.arange(3.0), torch.full((3,), 0.7))
    assert isnan(constant.number())
    assert standard_deviation(1.0, 1.0, 1.0 - 1e-15) == 0
