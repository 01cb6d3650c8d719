import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.metrics.ranking import auc_within, pair_counts


def test_by_hand():
    """Prompt a: right 3 over wrong 1 and 3 (a tie): 1.5 of 2. Prompt b: right 0 under wrong 9. c has no pair."""
    counts = pair_counts([3, 1, 3, 0, 9, 5], [1, 0, 0, 1, 0, 1], list("aaabbc"))
    assert counts.wins.tolist() == [1.5, 0]
    assert counts.pairs.tolist() == [2, 1]
    assert auc_within([3, 1, 3, 0, 9, 5], [1, 0, 0, 1, 0, 1], list("aaabbc")).estimate == 0.5


def test_pairs_never_cross_prompts():
    """Across prompts this score is perfect, within each it is always wrong."""
    result = auc_within([10, 11, 0, 1], [1, 0, 1, 0], list("aabb"))
    assert (result.estimate, result.groups, result.pairs) == (0.0, 2, 2)


def test_matching_leaves_only_pairs_that_are_close():
    """Right 1.0 and 5.0, wrong 1.2 and 9.0: within 0.5 of each other is one pair, and it is ranked wrongly."""
    scores, right = [1.0, 5.0, 1.2, 9.0], [1, 1, 0, 0]
    result = auc_within(scores, right, ["a"] * 4, matched=[(scores, 0.5)])
    assert (result.estimate, result.pairs) == (0.0, 1)
    both = auc_within(scores, right, ["a"] * 4, matched=[(scores, 0.5), ([1.0, 2.0, 3.0, 4.0], 1.0)])
    assert both.pairs == 0


def test_no_pairs_is_nan():
    assert np.isnan(auc_within([1, 2], [1, 1], ["a", "a"]).estimate)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from("abc")), min_size=2, max_size=30))
def test_equals_the_double_loop_and_turns_with_the_score(rows):
    scores, right, groups = map(list, zip(*rows))
    wins = pairs = 0.0
    for s, y, g in rows:
        for t, z, h in rows:
            if g == h and y and not z:
                pairs += 1
                wins += (s > t) + 0.5 * (s == t)
    result = auc_within(scores, right, groups, resamples=2)
    assert result.pairs == pairs
    if pairs:
        assert result.estimate == pytest.approx(wins / pairs)
        turned = auc_within([-s for s in scores], right, groups, resamples=2)
        assert turned.estimate == pytest.approx(1 - result.estimate)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        right = rng.random(400) < 0.5
        scores = rng.normal(size=400) + right
        groups = np.repeat(np.arange(50), 8)
        result = auc_within(scores, right, groups, resamples=200, seed=trial)
        covered += result.low <= 0.7602 <= result.high
    assert 86 <= covered <= 100
