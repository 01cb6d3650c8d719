"""Accuracy against cost: which numbers are drawn."""

from doubles.results import LEGEND, accuracies
from stepcredit.report.cost import cost, cost_svg, standing
from stepcredit.report.scores import aggregate


def row(search, width, accuracy, generated, scored, method="sft", seed=0):
    return {
        "task": "t", "method": method, "search": search, "width": width, "seed": seed, "n": 10, "accuracy": accuracy,
        "tokens_generated": generated, "tokens_scored": scored,
    }  # fmt: skip


ROWS = [
    row("greedy", 1, 0.1, 100, 0),
    row("vote", 2, 0.3, 200, 0),
    row("vote", 1, 0.2, 100, 0),
    row("best-of", 2, 0.4, 200, 220),
    row("beam", 3, 0.9, 250, 150),
    row("vote", 1, 0.5, 100, 0, method="oreo"),
]


def test_the_cost_is_what_was_drawn_and_read():
    assert [cost(s) for s in aggregate(accuracies(ROWS), LEGEND) if s.search == "best-of"] == [42.0]


def test_the_picture_names_every_search_and_is_the_same_every_time():
    drawn = cost_svg(aggregate(accuracies(ROWS), LEGEND))
    assert drawn == cost_svg(aggregate(accuracies(ROWS), LEGEND))
    for label in ("greedy", "majority vote", "best of K", "step beam", "SFT", "OREO"):
        assert label in drawn
    assert standing(drawn).startswith("<svg style=")
    assert "currentColor" not in standing(drawn)
