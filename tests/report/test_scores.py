import math

import pytest

from doubles.results import LEGEND, accuracies, values
from stepcredit.errors import InputError
from stepcredit.report.scores import aggregate, aggregate_values


def result(**fields):
    return {
        "task": "t",
        "split": "test",
        "method": "oreo",
        "search": "greedy",
        "n": 100,
        "accuracy": 0.5,
    } | fields


def value(**fields):
    return {"task": "t", "method": "oreo", "metric": "auc_within_prompt", "at": 1.0, "estimate": 0.8} | fields


def test_several_seeds_give_the_mean_and_its_standard_error():
    rows = [result(seed=seed, accuracy=a, stderr=0.3) for seed, a in enumerate([0.4, 0.5, 0.9])]
    (score,) = aggregate(accuracies(rows))
    assert score.accuracy == pytest.approx(0.6, abs=1e-15)
    # deviations -0.2, -0.1, 0.3: sum of squares 0.14, variance 0.07, divided by 3 seeds
    assert score.spread == pytest.approx(math.sqrt(0.07 / 3), abs=1e-15)
    assert score.seeds == 3


def test_seeds_that_share_their_problems_have_their_error_too():
    """Seeds ±0.03, problems ±0.04: ±0.05."""
    rows = [result(seed=seed, accuracy=a, stderr_problems=0.04) for seed, a in enumerate([0.47, 0.53])]
    (score,) = aggregate(accuracies(rows))
    assert (score.spread, score.shared) == (pytest.approx(0.05), True)
    (alone,) = aggregate(accuracies([result(seed=0, stderr=0.02, stderr_problems=0.04)]))
    assert (alone.spread, alone.shared) == (0.02, False)


def test_one_seed_keeps_its_own_standard_error():
    (score,) = aggregate(accuracies([result(seed=0, stderr=0.04)]))
    assert (score.accuracy, score.spread, score.seeds) == (0.5, 0.04, 1)


def test_a_row_without_standard_error_gets_the_binomial_one():
    (score,) = aggregate(accuracies([result(accuracy=0.2, n=400)]))
    assert score.spread == pytest.approx(0.02, abs=1e-15)


def test_tokens_are_per_problem_and_counts_are_shares():
    rows = [
        result(seed=0, n=100, tokens_generated=1000, tokens_scored=0, truncated=3, undecided=1),
        result(seed=1, n=300, tokens_generated=2000, tokens_scored=40, truncated=5),
    ]
    (score,) = aggregate(accuracies(rows))
    assert score.problems == (100, 300)
    assert (score.tokens_generated, score.tokens_scored, score.truncated) == (7.5, 0.1, 0.02)
    assert score.undecided is None  # not recorded for every seed


def test_groups_differ_by_search_width_and_round():
    rows = [
        result(),
        result(search="beam", width=4),
        result(search="beam", width=8),
        result(round=1),
        result(round=2),
        result(split="train"),
    ]
    assert len(aggregate(accuracies(rows))) == 6
    assert aggregate(accuracies([result(round=2)]), LEGEND)[0].label == "OREO, round 2"


def test_order_is_best_method_first_then_search_whatever_the_order_of_rows():
    rows = [
        result(method="sft", accuracy=0.3),
        result(method="sft", search="vote", width=8, accuracy=0.4),
        result(method="oreo", search="beam", width=4, accuracy=0.95),
        result(method="oreo", accuracy=0.9),
        result(method="new <one>", accuracy=0.35),
    ]
    order = [
        ("oreo", "greedy"),
        ("oreo", "beam"),
        ("sft", "greedy"),
        ("sft", "vote"),
        ("new <one>", "greedy"),
    ]
    assert [(s.method, s.search) for s in aggregate(accuracies(rows))] == order
    assert aggregate(accuracies(rows)) == aggregate(accuracies(rows[::-1]))


def test_settings_are_told_where_they_tell_rows_apart():
    rows = [result(search="sample", temperature=t) for t in (None, 0.5)]
    assert [s.search_label for s in aggregate(accuracies(rows))] == ["sampling", "sampling (temperature 0.5)"]
    assert [s.search_label for s in aggregate(accuracies(rows[1:]))] == ["sampling"]
    old, new = (result(search="beam", width=4, task_version=v, accuracy=0.1 * v) for v in (1, 2))
    assert [s.search_label for s in aggregate(accuracies([old, new]))] == [
        f"step beam (task_version {v})" for v in (1, 2)
    ]
    by_value = [value(temperature=t) for t in (None, 0.5)]
    assert [s.label for s in aggregate_values(values(by_value), LEGEND)] == ["OREO", "OREO (temperature 0.5)"]


def test_the_same_seed_twice_is_refused():
    with pytest.raises(InputError, match=r"row 3: .*seed \(1\)"):
        aggregate(accuracies([result(seed=0), result(seed=1), result(seed=1)]))
    with pytest.raises(InputError, match="seed"):
        aggregate(accuracies([result(), result()]))


def test_value_rows_average_over_seeds_and_cover_every_interval():
    rows = [
        value(seed=0, estimate=0.8, low=0.7, high=0.85, n=50, note="a"),
        value(seed=1, estimate=0.9, low=0.75, high=0.95, n=60, note="a"),
    ]
    (score,) = aggregate_values(values(rows))
    assert score.estimate == pytest.approx(0.85, abs=1e-15)
    assert (score.low, score.high, score.n, score.seeds, score.note) == (0.7, 0.95, (50, 60), 2, "a")
    assert score.chance == 0.5
    assert score.at_label == "at the end"


def test_a_chance_row_stands_beside_its_metric():
    rows = [
        value(metric="first_wrong_step", at=None, estimate=0.7),
        value(metric="first_wrong_step_chance", at=None, estimate=0.25),
        value(metric="lonely_chance", at=None, estimate=0.1),
    ]
    scores = aggregate_values(values(rows))
    assert [(s.metric, s.estimate, s.chance) for s in scores] == [
        ("first_wrong_step", 0.7, 0.25),
        ("lonely_chance", 0.1, None),
    ]
