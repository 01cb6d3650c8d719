from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.metrics.paired import mcnemar, paired_difference


def test_difference_by_hand():
    result = paired_difference([1, 1, 0, 1], [0, 1, 1, 0])
    assert (result.estimate, result.groups, result.pairs) == (0.25, 4, 4)
    assert -1 <= result.low < 0.25 < result.high <= 1


def test_seeds_of_one_problem_are_drawn_together():
    """Four seeds of two problems: as sure as the two problems' means, and no surer."""
    means = paired_difference([0.5, 0.0], [0.0, 0.0])
    seeds = paired_difference([1, 0, 1, 0] + [0] * 4, [0] * 8, groups=["a"] * 4 + ["b"] * 4)
    assert seeds[:3] == means[:3]
    assert (seeds.groups, seeds.pairs) == (2, 8)


def test_what_is_hard_for_both_cancels():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=200)
    a, b = hard + 0.1 + 0.01 * rng.normal(size=200), hard
    result = paired_difference(a, b)
    assert 0.09 < result.low < result.high < 0.11


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_exchanging_the_methods_turns_the_signs(rows):
    a, b, groups = map(list, zip(*rows))
    there, back = paired_difference(a, b, groups, resamples=50), paired_difference(b, a, groups, resamples=50)
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low))
    assert mcnemar(a, b) == (mcnemar(b, a).only_b, mcnemar(b, a).only_a, pytest.approx(mcnemar(b, a).p))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_p_is_the_binomial_tail_twice(rows):
    a, b = [x for x, _ in rows], [y for _, y in rows]
    only_a, only_b = sum(x and not y for x, y in rows), sum(y and not x for x, y in rows)
    n = only_a + only_b
    tail = sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar([*a, True, False], [*b, True, False]) == found, "problems on which they agree say nothing"


def test_tables_by_hand():
    """Five won and none lost: 2 · (1/2)^5. Eight and two: 2 · (1 + 10 + 45)/1024."""
    assert mcnemar([1] * 5, [0] * 5) == (5, 0, pytest.approx(0.0625))
    assert mcnemar([1] * 8 + [0] * 2, [0] * 8 + [1] * 2) == (8, 2, pytest.approx(0.109375))
    assert mcnemar([1, 0], [1, 0]) == (0, 0, 1.0)


def test_the_same_problem_under_several_seeds_is_one_problem():
    """Ten against two problems, each three times over; and one that both win, on two seeds and on one."""
    a, b, problems = [1] * 10 + [0] * 2, [0] * 10 + [1] * 2, list(range(12))
    assert mcnemar(a * 3, b * 3, problems * 3) == mcnemar(a, b)
    assert mcnemar([1, 1, 0], [0, 0, 1], [7, 7, 7]) == (1, 0, 1.0)
    assert mcnemar([1, 0], [0, 1], [7, 7]) == (0, 0, 1.0)


@pytest.mark.parametrize("test", [paired_difference, mcnemar])
def test_other_lengths_are_refused(test):
    with pytest.raises(ValueError, match="cannot be paired"):
        test([1, 0], [1])
