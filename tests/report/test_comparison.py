"""Pairs, signals and Markdown tables by hand."""

import pytest

from stepcredit.errors import InputError
from stepcredit.report import markdown
from stepcredit.report.page import render
from stepcredit.report.pairs import matrices, p_value, pair_note, points, read_pairs
from stepcredit.report.step_credit import foresight, localisation, spread

PAIR = {
    "task": "arithmetic", "search": "greedy", "method_a": "rft", "method_b": "oreo", "difference": -0.25,
    "low": -0.3, "high": -0.2, "only_a": 3, "only_b": 28, "p": 4.6e-6, "n": 100, "seeds": 2,
}  # fmt: skip


def result(method, seed, accuracy, **more):
    row = {"task": "arithmetic", "split": "test", "method": method, "search": "greedy", "width": 1, "seed": seed}
    return {**row, "n": 100, "accuracy": accuracy, "stderr": 0.03, **more}


def test_a_pair_from_both_sides():
    (pair,) = read_pairs([PAIR])
    turned = pair.seen_from("oreo")
    assert (turned.methods, turned.difference, turned.low, turned.high) == (("oreo", "rft"), 0.25, 0.2, 0.3)
    assert turned.only == (28, 3)
    assert turned.seen_from("rft") == pair
    assert pair.clear
    assert not read_pairs([{**PAIR, "high": 0.1}])[0].clear
    assert points(pair) == "−25.0"
    assert pair_note(turned) == "95% interval +20.0 to +30.0; right alone 28 and 3 times; p = 5e-06"
    assert [p_value(p) for p in (0.0, 0.0004, 0.25, 1.0)] == ["< 1e-300", "4e-04", "0.250", "1.000"]


def test_the_matrix_has_both_halves():
    (matrix,) = matrices(read_pairs([PAIR]))
    assert matrix.labels == ["rejection sampling", "OREO"]
    assert matrix.cells[0][0] is None
    assert matrix.cells[0][1].difference == -0.25
    assert matrix.cells[1][0].difference == 0.25


def test_malformed_pairs_are_named():
    with pytest.raises(InputError, match=r"pairs.json, row 1"):
        read_pairs([{**PAIR, "p": 2.0}])


def signal(name, metric, estimate, at=None, **more):
    return {"signal": name, "metric": metric, "estimate": estimate, "at": at, "n": 5, **more}


ROWS = [
    signal("oreo ΔV", "first_wrong_step", 0.9),
    signal("oreo ΔV", "first_wrong_step", 0.8),
    signal("oreo ΔV", "kind_matched_pairs", 0.95),
    signal("chance", "first_wrong_step_chance", 0.25),
    signal("oreo V", "auc_within_prompt", 0.7, 0.5),
    signal("oreo V", "auc_across_prompts", 0.6, 0.5),
    signal("oreo V", "value_squared_error", 0.02, against="sft continuations"),
    signal("oreo V", "calibration", 0.5, 0.4, to=0.5, predicted=0.45, against="sft continuations"),
    signal("oreo V", "calibration", 0.2, 0.4, to=0.5, predicted=0.42, against="sft continuations") | {"n": 15},
]


def test_signals_over_seeds():
    found = localisation(ROWS)
    assert [(line.name, line.cells) for line in found.lines] == [
        ("oreo ΔV", ["85.0 ± 5.0", "95.0", "–"]),
        ("chance", ["25.0", "50.0", "50.0"]),
    ]
    seen = foresight(ROWS)
    assert seen.header == ["signal", "within 50%", "across 50%"]
    assert [(line.name, line.cells) for line in seen.lines] == [("oreo V", ["70.0", "60.0"])]
    assert localisation([]) is None
    assert foresight([]) is None
    assert spread([]) == "–"


def test_markdown_tables_by_hand():
    assert markdown.table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
    rows = [
        result("rft", 0, 0.1, learning_rate=1e-3, steps=200, epochs=4.5, tokens_trained=1000),
        result("rft", 1, 0.3, learning_rate=1e-3, steps=200, epochs=5.5, tokens_trained=3000),
        result("sft", 0, 0.1),
    ]
    assert markdown.score_table(rows).splitlines()[2:] == [
        "| rejection sampling | 20.0 ± 10.0 | 10.0 30.0 | 0.001 | 200 | 5.0 | 2,000 |",
        "| SFT | 10.0 ± 3.0 | 10.0 | – | – | – | – |",
    ]
    grid = [result("rft", 9, 0.1, learning_rate=r, chosen=r == 2e-4) for r in (1e-3, 2e-4)]
    grid += [{**row, "search": "sample", "accuracy": 0.3} for row in grid]
    assert markdown.grid_table(grid).splitlines() == [
        "| method (greedy / sample) | 0.0002 | 0.001 |",
        "| --- | ---: | ---: |",
        "| rejection sampling | **10.0 / 30.0** | 10.0 / 30.0 |",
    ]
    assert markdown.pair_table(read_pairs([PAIR]), "oreo", "greedy").splitlines()[2:] == [
        "| rejection sampling | +25.0 | +20.0 to +30.0 | 28 | 3 | 5e-06 |"
    ]
    assert markdown.calibration_table(ROWS, "oreo V", "sft continuations").splitlines()[2:] == [
        "| 0.4 to 0.5 | 0.43 | 0.28 | 20 |"
    ]


def test_the_page_shows_pairs_and_signals(tmp_path):
    import json

    (tmp_path / "results.json").write_text(json.dumps([result("rft", 0, 0.1), result("oreo", 0, 0.35)]))
    plain = render(tmp_path)
    assert "Method against method" not in plain
    (tmp_path / "pairs.json").write_text(json.dumps([PAIR]))
    (tmp_path / "localisation.json").write_text(json.dumps([*ROWS, signal("<b>x</b>", "first_wrong_step", 0.1)]))
    page = render(tmp_path)
    assert "<b>+25.0</b>" in page
    assert "Who finds the wrong step" in page
    assert "85.0 ± 5.0" in page
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
