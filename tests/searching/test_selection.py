import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.searching.selection import by_value, by_vote, by_weighted_vote


@pytest.mark.parametrize(
    ("values", "answers", "valued", "voted", "weighted"),
    [
        ([], [], None, None, None),
        ([0.1], [None], 0, 0, 0),
        ([0.1, 0.9], [None, None], 1, 0, 0),
        ([0.5, 0.4, 0.3], ["1", "2", "2"], 0, 1, 1),
        ([0.9, 0.4, 0.3], ["1", "2", "2"], 0, 1, 0),
        ([0.3, 0.4, 0.9, -5.0], ["2", "2", "1", "1"], 2, 0, 2),
        ([0.5, 0.5], ["a", "b"], 0, 0, 0),
        ([-1.0, -2.0], ["a", "b"], 0, 0, 0),
        ([0.2, 0.6, 0.6], [None, "x", "x"], 1, 1, 1),
    ],
)
def test_by_hand(values, answers, valued, voted, weighted):
    assert by_value(values) == valued
    assert by_vote(answers) == voted
    assert by_weighted_vote(values, answers) == weighted


@given(st.lists(st.tuples(st.floats(0.01, 1), st.sampled_from(["a", "b", None])), min_size=1, max_size=8))
def test_the_votes_agree_where_all_values_are_equal(rows):
    answers = [answer for _, answer in rows]
    by_count, by_weight = by_vote(answers), by_weighted_vote([0.5] * len(rows), answers)
    assert answers[by_count] == answers[by_weight]
