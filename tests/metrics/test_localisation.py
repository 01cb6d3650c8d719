import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.metrics.localisation import (
    ANY_KIND,
    Position,
    StepCredit,
    best_position,
    every_step,
    first_wrong_step_accuracy,
    kind_prior_change,
    kind_rates,
    largest_drop,
    length_sign,
    matched_pairs,
    points_at_first_wrong,
    up_to_first_wrong,
)


def test_the_first_of_equal_drops():
    assert largest_drop([0.1, -0.4, -0.4]) == 1


def test_by_hand():
    responses = [
        StepCredit([0.1, -0.5, -0.1], [False, True, True]),  # found
        StepCredit([-0.5, 0.1], [False, True]),  # missed
        StepCredit([-0.5, 0.1], [False, False]),  # no wrong step: does not count
        StepCredit([-0.1, -0.2, -0.3, -0.6], [False, False, False, True]),  # found
    ]
    found, chance = first_wrong_step_accuracy(responses, ["a", "a", "b", "b"])
    assert found.estimate == 2 / 3
    assert (found.groups, found.pairs) == (2, 3)
    assert chance == (1 / 3 + 1 / 2 + 1 / 4) / 3


def test_kind_rates_count_nothing_after_the_first_wrong_step():
    steps = [
        (["guess", "guess", "answer"], [False, True, True]),  # guess: right, wrong; the answer does not count
        (["work", "guess", "answer"], [False, False, False]),
    ]
    rates = kind_rates(steps)
    assert rates == {"guess": 1 / 3, "work": 0.0, "answer": 0.0, ANY_KIND: 1 / 5}
    assert kind_prior_change(["work", "guess", "other"], rates) == [0.0, -1 / 3, -1 / 5]
    with pytest.raises(ValueError, match="no steps"):
        kind_rates([])


def test_the_kind_prior_points_at_the_first_step_of_the_worst_kind():
    rates = {"guess": 0.5, "work": 0.1, ANY_KIND: 0.3}
    kinds = ["work", "guess", "guess"]
    found = [
        points_at_first_wrong(StepCredit(kind_prior_change(kinds, rates), wrong, kinds))
        for wrong in ([False, True, False], [False, False, True], [True, True, False])
    ]
    assert found == [True, False, False]


MATCHED = [
    # a: first wrong step is the guess at 1 (-0.5); a right guess at 0 (-0.2); the guess at 2 comes too late
    StepCredit([-0.2, -0.5, -0.9], [False, True, False], ["guess", "guess", "guess"]),
    # a: a right response: one guess at -0.7, one at -0.5 (a tie), work does not pair with a guess
    StepCredit([-0.7, -0.5, 0.0], [False, False, False], ["guess", "guess", "work"]),
    # b: the guess is wrong, but no right one to this prompt
    StepCredit([-0.9, -0.1], [False, True], ["work", "guess"]),
    # c: wrong work under right work
    StepCredit([0.1], [False], ["work"]),
    StepCredit([0.0, 0.3], [True, True], ["work", "work"]),
]


def test_matched_pairs_by_hand():
    """a: -0.5 against -0.2 (won), -0.7 (lost), -0.5 (tied); c: 0.0 against 0.1 (won)."""
    result = matched_pairs(MATCHED, list("aabcc"))
    assert (result.estimate, result.groups, result.pairs) == (2.5 / 4, 2, 4)


def test_unrestricted_pairs_by_hand():
    """Also a: -0.5 against -0.9 (lost); c: 0.3 against 0.1 (lost)."""
    result = matched_pairs(MATCHED, list("aabcc"), every_step)
    assert (result.estimate, result.groups, result.pairs) == (2.5 / 6, 2, 6)


def test_no_pairs_is_nan():
    assert np.isnan(matched_pairs([], []).estimate)
    assert matched_pairs(MATCHED[2:3], ["b"]).pairs == 0


responses = st.lists(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.sampled_from(["guess", "work"])), min_size=1, max_size=5),
    min_size=1,
    max_size=8,
)


@given(responses, st.booleans())
def test_matched_pairs_equal_the_double_loop(rows, restricted):
    credits = [StepCredit(*map(list, zip(*row))) for row in rows]
    groups = ["ab"[k % 2] for k in range(len(rows))]
    steps = []
    for credit, group in zip(credits, groups):
        for change, wrong, kind in zip(*credit):
            steps.append((change, wrong, kind, group))
            if wrong and restricted:
                break
    pairs = [(w, r) for w in steps for r in steps if w[1] and not r[1] and w[2:] == r[2:]]
    result = matched_pairs(credits, groups, up_to_first_wrong if restricted else every_step, resamples=2)
    assert result.pairs == len(pairs)
    if pairs:
        assert result.estimate == pytest.approx(np.mean([(w[0] < r[0]) + 0.5 * (w[0] == r[0]) for w, r in pairs]))


@given(responses)
def test_a_signal_of_the_kind_only_wins_half_of_the_pairs(rows):
    credits = [StepCredit(*map(list, zip(*row))) for row in rows]
    rates = kind_rates((c.kind, c.wrong) for c in credits)
    prior = [StepCredit(kind_prior_change(c.kind, rates), c.wrong, c.kind) for c in credits]
    result = matched_pairs(prior, ["a"] * len(rows), every_step, resamples=2)
    assert result.estimate == 0.5 or not result.pairs


def test_positions_by_hand():
    assert [Position("start", 2).step(n) for n in (1, 2, 3, 9)] == [0, 1, 2, 2]
    assert [Position("end", 1).step(n) for n in (1, 2, 3, 9)] == [0, 0, 1, 7]
    assert [Position("share", 0.5).step(n) for n in (1, 2, 3, 4, 9)] == [0, 0, 1, 1, 4]
    assert Position("end", 0).change(3) == [0.0, 0.0, -1.0]


def test_the_best_position_by_hand():
    """The last step but one is wrong in three responses of four, the second in two."""
    training = [[False, True, False], [False, True, False], [False, False, False, True, False], [True, False, False]]
    assert best_position([*training, [False, False]]) == Position("end", 1)
    assert best_position([[True, False], [True, True], [False, True]]) == Position("start", 0)


def test_whether_long_or_short_steps_are_wrong():
    assert length_sign([([3, 9, 1], [False, True, False]), ([5, 2], [True, False])]) == -1
    assert length_sign([([3, 9, 1], [False, False, True]), ([5, 2], [False, True]), ([9, 1], [False, False])]) == 1
    assert length_sign([([3, 9], [False, True]), ([3, 9], [True, False])]) == -1
