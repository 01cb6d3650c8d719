"""Pairs and signals by hand."""

import json

from doubles.results import LEGEND
from stepcredit.report.formatting import over_seeds, p_value, points
from stepcredit.report.page import render
from stepcredit.report.pairs import is_clear, matrices, pair_note, seen_from
from stepcredit.report.step_credit import foresight, localisation
from stepcredit.results.row_files import parsed
from stepcredit.results.schema import PairRow, SignalRow

PAIR = {
    "task": "arithmetic", "search": "greedy", "method_a": "rft", "method_b": "oreo", "difference": -0.25,
    "low": -0.3, "high": -0.2, "only_a": 3, "only_b": 28, "p": 4.6e-6, "n": 100, "seeds": 2,
}  # fmt: skip


def result(method, seed, accuracy, **more):
    row = {"task": "arithmetic", "split": "test", "method": method, "search": "greedy", "width": 1, "seed": seed}
    return {**row, "n": 100, "accuracy": accuracy, "stderr": 0.03, **more}


def pair_of(**fields):
    return parsed(PairRow, PAIR | fields, "pairs.json")


def test_a_pair_from_both_sides():
    turned = seen_from(pair_of(), "oreo")
    assert turned == pair_of(method_a="oreo", method_b="rft", difference=0.25, low=0.2, high=0.3, only_a=28, only_b=3)
    assert seen_from(turned, "rft") == pair_of()
    assert is_clear(pair_of())
    assert not is_clear(pair_of(high=0.1))
    assert points(-0.25) == "−25.0"
    assert pair_note(turned) == "95% interval +20.0 to +30.0; right alone 28 and 3 times; p = 5e-06"
    assert [p_value(p) for p in (0.0, 0.0004, 0.25, 1.0)] == ["< 1e-300", "4e-04", "0.250", "1.000"]


def test_the_matrix_has_both_halves():
    (matrix,) = matrices([pair_of()], LEGEND)
    assert matrix.labels == ["rejection sampling", "OREO"]
    assert matrix.cells[0][0] is None
    assert matrix.cells[0][1].difference == -0.25
    assert matrix.cells[1][0].difference == 0.25


def test_splits_have_matrices_of_their_own():
    pairs = [pair_of(split="test"), pair_of(split="svamp", difference=0.1, high=0.2)]
    found = matrices(pairs, LEGEND)
    assert [matrix.title for matrix in found] == ["test, greedy", "svamp, greedy"]
    assert [matrix.cells[0][1].difference for matrix in found] == [-0.25, 0.1]


def signal(name, metric, estimate, at=None, **more):
    return {"task": "t", "signal": name, "metric": metric, "estimate": estimate, "at": at, "n": 5, **more}


ROWS = [
    signal("oreo ΔV", "first_wrong_step", 0.9),
    signal("oreo ΔV", "first_wrong_step", 0.8),
    signal("oreo ΔV", "kind_matched_pairs", 0.95),
    signal("chance", "first_wrong_step_chance", 0.25),
    signal("oreo V", "auc_within_prompt", 0.7, 0.5),
    signal("oreo V", "auc_across_prompts", 0.6, 0.5),
    signal("oreo V", "value_squared_error", 0.02, against="sft continuations"),
    signal("oreo V", "calibration", 0.5, 0.4, to=0.5, predicted=0.45, against="sft continuations"),
]


def test_signals_over_seeds():
    rows = [parsed(SignalRow, row, "row") for row in ROWS]
    assert localisation(rows).lines == [["oreo ΔV", "85.0 ± 5.0", "95.0", "–"], ["chance", "25.0", "50.0", "50.0"]]
    seen = foresight(rows)
    assert seen.header == ["signal", "within 50%", "across 50%"]
    assert seen.lines == [["oreo V", "70.0", "60.0"]]
    assert localisation([]).lines == foresight([]).lines == []
    assert over_seeds([]) == "–"


def test_the_page_shows_pairs_and_signals(tmp_path):
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
