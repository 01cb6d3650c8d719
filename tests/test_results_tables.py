"""The tables and pictures of docs/results.md, from rows written by hand."""

import pytest

from doubles.results import METHODS, accuracies
from scripts import loaded
from stepcredit.report.legend import Legend
from stepcredit.report.scores import aggregate
from stepcredit.results.row_files import parsed
from stepcredit.results.schema import PairRow, SignalRow

LEGEND = Legend({**METHODS, "oreo-step": {"label": "OREO (step)", "color": "#3fa3d9"}})


@pytest.fixture(scope="module")
def script():
    with loaded("compare/reply_tables.py") as module:
        yield module


@pytest.fixture(scope="module")
def markdown():
    with loaded("compare/markdown_tables.py") as module:
        yield module


def row(method, split, search, width, seed, accuracy, **more):
    return {
        "task": "alfworld", "method": method, "split": split, "search": search, "width": width, "seed": seed,
        "n": 100, "accuracy": accuracy, "stderr": 0.05, "truncated": 10, "undecided": 0,
        "tokens_generated": 1000, "tokens_scored": 0, **more,
    }  # fmt: skip


ROWS = [
    *(row("sft", split, search, 1, seed, 0.2 + 0.1 * seed)
      for split in ("valid_seen", "valid_unseen") for search in ("greedy", "sample") for seed in (0, 1)),
    *(row("rft", "valid_unseen", "sample", 1, seed, 0.5) for seed in (0, 1)),
    *(row("sft", "valid_unseen", name, k, seed, 0.3 + by * (k - 1) + 0.1 * seed, tokens_scored=3000 if by else 0)
      for name, by in (("best-of", 0.1), ("random", 0.0)) for k in (2, 3) for seed in (0, 1)),
]  # fmt: skip
SAMPLED = [r for r in ROWS if r["search"] != "greedy"]


def test_methods_and_splits_with_one_reply_a_turn(markdown):
    lines = markdown.split_table(
        accuracies(ROWS), ("valid_unseen", "valid_seen"), ("sample", "greedy"), LEGEND
    ).splitlines()
    assert lines[0] == (
        "| method | valid_unseen, sample | valid_unseen, greedy | valid_seen, sample | valid_seen, greedy "
        "| each seed, valid_unseen, sample |"
    )
    assert lines[2] == "| SFT | 25.0 ± 5.0 | 25.0 ± 5.0 | 25.0 ± 5.0 | 25.0 ± 5.0 | 20.0 30.0 |"
    assert lines[3] == "| rejection sampling | 50.0 ± 0.0 | – | – | – | 50.0 50.0 |"
    assert len(lines) == 4, "the rows of K replies a turn are not among them"


def test_best_of_k_beside_any_of_k(script):
    lines = script.replies_table(accuracies(SAMPLED), ("valid_unseen", "valid_seen"), LEGEND).splitlines()
    assert lines[0] == "| policy | K = 1 | K = 2 | K = 3 | tokens written / read, K = 3 |"
    assert lines[2] == "| SFT, valid_unseen, by value | 25.0 ± 5.0 | 45.0 ± 5.0 | 55.0 ± 5.0 | 10 / 30 |"
    assert lines[3] == "| SFT, valid_unseen, at random | 25.0 ± 5.0 | 35.0 ± 5.0 | 35.0 ± 5.0 | 10 / 0 |"
    assert len(lines) == 4, "no lines of a split that was not searched"


def test_the_likeliest_reply_stands_beside_them_where_it_was_played(script):
    greedy = [r | {"accuracy": 0.4 + 0.1 * r["seed"]} if r["search"] == "greedy" else r for r in ROWS]
    fewer = [r | {"method": "oreo-step"} for r in ROWS if r["method"] == "sft" and r["search"] != "greedy"]
    lines = script.replies_table(accuracies([*greedy, *fewer]), ("valid_unseen",), LEGEND).splitlines()
    assert lines[0] == "| policy | greedy | K = 1 | K = 2 | K = 3 | tokens written / read, K = 3 |"
    in_name = {line.split(" | ")[0]: line.split(" | ")[1:3] for line in lines[2:]}
    assert in_name["| SFT, valid_unseen, by value"] == ["45.0 ± 5.0", "25.0 ± 5.0"]
    assert in_name["| SFT, valid_unseen, at random"] == ["45.0 ± 5.0", "25.0 ± 5.0"]
    assert in_name["| OREO (step), valid_unseen, by value"] == ["–", "25.0 ± 5.0"]


def test_the_most_valued_at_every_temperature(script):
    sft = [r for r in ROWS if (r["method"], r["split"]) == ("sft", "valid_unseen") and r["search"] != "random"]
    cool = [r | {"temperature": 0.25, "accuracy": 0.5} for r in sft if r["width"] < 3]
    both = [*ROWS, *(r | {"method": "oreo-step"} for r in cool), *cool]
    lines = script.temperatures_table(accuracies(both), ("valid_unseen",), LEGEND).splitlines()
    assert lines[0] == "| policy | temperature | K = 1 | K = 2 | K = 3 |"
    assert lines[2:] == [
        "| OREO (step), valid_unseen | 0.25 | 50.0 ± 0.0 | 50.0 ± 0.0 | – |",
        "| SFT, valid_unseen | 0.25 | 50.0 ± 0.0 | 50.0 ± 0.0 | – |",
        "| SFT, valid_unseen | 1 | 25.0 ± 5.0 | 45.0 ± 5.0 | 55.0 ± 5.0 |",
    ]


def test_one_reply_is_that_of_the_seeds_that_tried_several(script):
    first = [r for r in SAMPLED if r["width"] == 1 or r["seed"] == 0]
    line = script.replies_table(accuracies(first), ("valid_unseen",), LEGEND).splitlines()[2]
    assert line == "| SFT, valid_unseen, by value | 20.0 ± 5.0 | 40.0 ± 5.0 | 50.0 ± 5.0 | 10 / 30 |"


def test_the_picture_has_a_panel_for_each_policy_and_is_the_same_every_time(script):
    both = [*ROWS, *(r | {"method": "oreo-step"} for r in ROWS if r["method"] == "sft")]
    drawn = script.replies_svg(accuracies(both), ("valid_unseen", "valid_seen"), LEGEND)
    assert drawn == script.replies_svg(accuracies(both), ("valid_unseen", "valid_seen"), LEGEND)
    for label in ("SFT, valid_unseen", "OREO (step), valid_unseen", "the most valued", "any of them"):
        assert drawn.count(f">{label}<") == 1
    assert "valid_seen" not in drawn, "not searched there"


def test_the_lines_of_the_picture_are_the_rows_of_the_table(script, monkeypatch):
    drawn_svg, figures = script.drawn_svg, []
    monkeypatch.setattr(script, "drawn_svg", lambda figure, name: figures.append(figure) or drawn_svg(figure, name))
    script.replies_svg(accuracies(ROWS), ("valid_unseen",), LEGEND)
    ((axes,),) = [figure.axes for figure in figures]
    drawn = {bars.get_label(): tuple(bars[0].get_xydata().T.round(6).tolist()) for bars in axes.containers}
    assert drawn == {"the most valued": ([1, 2, 3], [25, 45, 55]), "any of them": ([1, 2, 3], [25, 35, 35])}
    (likeliest,) = [line for line in axes.lines if line.get_label() == "greedy, one reply"]
    assert set(likeliest.get_ydata()) == {25.0}


def test_no_random_and_no_sampled_rows(script):
    (found,) = script.replies(accuracies([r for r in ROWS if r["search"] == "best-of"]), ("valid_unseen",), LEGEND)
    assert (sorted(found.by_value), found.at_random) == ([2, 3], {})


PAIR = {
    "task": "arithmetic", "search": "greedy", "method_a": "rft", "method_b": "oreo", "difference": -0.25,
    "low": -0.3, "high": -0.2, "only_a": 3, "only_b": 28, "p": 4.6e-6, "n": 100, "seeds": 2,
}  # fmt: skip
BIN = {
    "task": "t", "signal": "oreo V", "metric": "calibration", "at": 0.4, "to": 0.5, "against": "sft continuations",
}  # fmt: skip
BINS = [
    {**BIN, "estimate": 0.5, "predicted": 0.45, "n": 5},
    {**BIN, "estimate": 0.2, "predicted": 0.42, "n": 15},
    {**BIN, "estimate": 0.9, "predicted": 0.42, "n": 15, "against": "oreo continuations"},
]


def compared(method, seed, accuracy, **more):
    return row(method, "test", "greedy", 1, seed, accuracy, stderr=0.03, **more)


def test_markdown_tables_by_hand(markdown):
    assert markdown.table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
    rows = [
        compared("rft", 0, 0.1, learning_rate=1e-3, steps=200, epochs=4.5, tokens_trained=1000),
        compared("rft", 1, 0.3, learning_rate=1e-3, steps=200, epochs=5.5, tokens_trained=3000),
        compared("sft", 0, 0.1),
    ]
    assert markdown.score_table(accuracies(rows), LEGEND).splitlines()[2:] == [
        "| rejection sampling | 20.0 ± 10.0 | 10.0 30.0 | 0.001 | 200 | 5.0 | 2,000 |",
        "| SFT | 10.0 ± 3.0 | 10.0 | – | – | – | – |",
    ]
    grid = [compared("rft", 9, 0.1, learning_rate=r, chosen=r == 2e-4) for r in (1e-3, 2e-4)]
    grid += [{**row, "search": "sample", "accuracy": 0.3} for row in grid]
    assert markdown.grid_table(accuracies(grid), LEGEND).splitlines() == [
        "| method (greedy / sample) | 0.0002 | 0.001 |",
        "| --- | ---: | ---: |",
        "| rejection sampling | **10.0 / 30.0** | 10.0 / 30.0 |",
    ]
    assert markdown.pair_table([parsed(PairRow, PAIR, "pair")], "oreo", "greedy", LEGEND).splitlines()[2:] == [
        "| rejection sampling | +25.0 | +20.0 to +30.0 | 28 | 3 | 5e-06 |"
    ]
    with_power = markdown.pair_table([parsed(PairRow, PAIR, "pair")], "oreo", "greedy", LEGEND, True).splitlines()
    assert with_power[0].endswith("| p | detectable |")
    assert with_power[2].endswith("| 5e-06 | 7.1 |")  # 5 / 1.96 × 2.80
    columns = {"one": accuracies(rows), "other": accuracies([compared("sft", 0, 0.2), compared("kto", 0, 0.4)])}
    assert markdown.summary_table(columns, LEGEND).splitlines() == [
        "| method | one | other |",
        "| --- | ---: | ---: |",
        "| rejection sampling | 20.0 ± 10.0 | – |",
        "| SFT | 10.0 ± 3.0 | 20.0 ± 3.0 |",
        f"| {LEGEND.label('kto')} | – | 40.0 ± 3.0 |",
    ]
    assert markdown.calibration_table(
        [parsed(SignalRow, row, "row") for row in BINS], "oreo V", "sft continuations"
    ).splitlines()[2:] == ["| 0.4 to 0.5 | 0.43 | 0.28 | 20 |"]


def searched(search, width, accuracy, generated, scored, method="sft"):
    cost = {"tokens_generated": generated, "tokens_scored": scored}
    return {"task": "t", "method": method, "search": search, "width": width, "n": 10, "accuracy": accuracy, **cost}


SEARCHED = [
    searched("greedy", 1, 0.1, 100, 0),
    searched("vote", 2, 0.3, 200, 0),
    searched("vote", 1, 0.2, 100, 0),
    searched("best-of", 2, 0.4, 200, 220),
    searched("beam", 3, 0.9, 250, 150),
    searched("vote", 1, 0.5, 100, 0, method="oreo"),
]


def test_costs_are_in_the_order_of_tokens_and_methods_apart(markdown):
    text = markdown.cost_table(aggregate(accuracies(SEARCHED)), "sft")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert cells[0][2:] == ["greedy", "majority vote", "vote weighed by V", "best of K", "step beam"]
    assert [line[:2] for line in cells[2:]] == [["10", "0"], ["20", "22"], ["25", "15"]]
    assert cells[2][2:4] == ["10.0 ± 9.5", "20.0 ± 12.6"]
    assert cells[3][5] == "40.0 ± 15.5"
    assert cells[4][6] == "90.0 ± 9.5 (B=3)"
    assert "50.0" not in text
