import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.metrics.ranking import auc_across, auc_difference, auc_in_strata, auc_within, pair_counts


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


def test_across_prompts_by_hand():
    """Right 3, 2; wrong 1, 3 in a and 4 in b: 3 over 1, 3 = 3, 2 over 1 are 2.5 of 6; within a 1.5 of 2."""
    result = auc_across([3, 1, 3, 2, 4], [1, 0, 0, 1, 0], list("aaabb"))
    assert (result.estimate, result.groups, result.pairs) == (2.5 / 6, 2, 6)


def test_a_score_of_the_prompt_only():
    """a is easy (4 right, 1 wrong), b is hard (1, 4): 16 pairs across are won, 1 is lost, 8 within are ties."""
    right = [1, 1, 1, 1, 0, 0, 0, 0, 0, 1]
    scores, groups = [1] * 5 + [0] * 5, list("aaaaabbbbb")
    assert auc_within(scores, right, groups).estimate == 0.5
    assert auc_across(scores, right, groups).estimate == (16 + 0.5 * 8) / 25


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from("abc")), min_size=1, max_size=30))
def test_across_prompts_is_one_group_within(rows):
    scores, right, groups = map(list, zip(*rows))
    across, within = auc_across(scores, right, groups, resamples=3), auc_within(scores, right, ["x"] * len(rows))
    assert across.pairs == within.pairs
    assert across.estimate == pytest.approx(within.estimate, nan_ok=True)


def test_a_draw_of_the_bootstrap_repeats_whole_prompts():
    """One resample: the interval is the AUC of the responses repeated as often as their prompt was drawn."""
    rng = np.random.default_rng(1)
    scores, right, groups = rng.integers(6, size=40), rng.random(40) < 0.5, np.repeat(np.arange(8), 5)
    times = np.random.default_rng(7).multinomial(8, np.full(8, 1 / 8))[groups]
    repeated = auc_across(np.repeat(scores, times), np.repeat(right, times), np.repeat(groups, times), resamples=1)
    one = auc_across(scores, right, groups, resamples=1, seed=7)
    assert one.low == one.high == pytest.approx(repeated.estimate)


def test_across_prompts_is_fast():
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    auc_across(rng.random(1600), rng.random(1600) < 0.5, np.repeat(np.arange(100), 16), resamples=1000)
    assert time.perf_counter() - start < 5


def test_the_interval_across_prompts_knows_that_prompts_differ():
    """Responses to one prompt are alike: taken as independent, the interval would be far too narrow."""
    rng = np.random.default_rng(0)
    prompt = np.repeat(rng.normal(size=30), 20)
    scores, right = prompt + 0.1 * rng.normal(size=600), rng.random(600) < 1 / (1 + np.exp(-prompt))
    clustered = auc_across(scores, right, np.repeat(np.arange(30), 20), resamples=300)
    alone = auc_across(scores, right, np.arange(600), resamples=300)
    assert clustered.high - clustered.low > 1.5 * (alone.high - alone.low)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from("abc"), st.sampled_from("xyz")), max_size=30)
)
def test_within_strata_equals_the_double_loop(rows):
    wins = pairs = 0.0
    for s, y, _, k in rows:
        for t, z, _, m in rows:
            if k == m and y and not z:
                pairs += 1
                wins += (s > t) + 0.5 * (s == t)
    result = auc_in_strata(*[[row[i] for row in rows] for i in range(4)], resamples=3)
    assert result.pairs == pairs
    if pairs:
        assert result.estimate == pytest.approx(wins / pairs)
    else:
        assert np.isnan(result.estimate)


def test_the_interval_within_strata_is_that_of_a_slow_bootstrap():
    """Groups are copied as often as they are drawn, and pairs counted one by one."""
    rng = np.random.default_rng(1)
    scores, right = rng.normal(size=40), rng.random(40) < 0.5
    groups, strata = rng.integers(0, 8, 40), rng.integers(0, 3, 40)
    draws, estimates = np.random.default_rng(5), []
    for _ in range(50):
        counts = draws.multinomial(8, np.full(8, 1 / 8))
        rows = np.repeat(np.arange(40), counts[groups])
        same = strata[rows][:, None] == strata[rows][None, :]
        pairs = same & right[rows][:, None] & ~right[rows][None, :]
        over = scores[rows][:, None] - scores[rows][None, :]
        estimates.append(((over > 0) + 0.5 * (over == 0))[pairs].mean())
    result = auc_in_strata(scores, right, groups, strata, resamples=50, seed=5)
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(estimates, [2.5, 97.5])))


def test_a_score_of_the_stratum_alone_is_at_one_half():
    strata = [0, 0, 1, 1, 1, 2]
    result = auc_in_strata([5, 5, -1, -1, -1, 9], [1, 0, 1, 0, 0, 1], list("abcdef"), strata)
    assert (result.estimate, result.low, result.high, result.pairs) == (0.5, 0.5, 0.5, 3)


def test_the_difference_of_two_scores_is_that_of_their_aucs():
    rng = np.random.default_rng(0)
    right, groups = rng.random(300) < 0.4, np.repeat(np.arange(30), 10)
    a = rng.normal(size=300) + right
    b = a + rng.normal(size=300) * 0.3
    apart = auc_difference(a, b, right, groups)
    single = [auc_within(x, right, groups) for x in (a, b)]
    assert apart.estimate == pytest.approx(single[0].estimate - single[1].estimate)
    assert apart.high - apart.low < 0.5 * (single[0].high - single[0].low)
    assert auc_difference(a, a, right, groups)[:3] == (0, 0, 0)
    matched = auc_difference(a, b, right, groups, matched=[(a, 0.5)])
    assert matched.pairs == auc_within(a, right, groups, matched=[(a, 0.5)]).pairs
