"""Tables of docs/results.md about credit on real errors, from the result files of runs/credit and runs/gsm8k."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import markdown_tables as markdown

from stepcredit.report.formatting import MISSING
from stepcredit.report.legend import Legend

RUNS = Path(__file__).resolve().parent.parent
LLAMA2 = "gsm8k_test_rollouts_llama2chat_k16.jsonl.gz"
SHARES = (0.25, 0.5, 0.75, 1.0)
SCORES = {
    "value": "V",
    "bag_of_words": "bag of words",
    "variant_success_rate": "success rate of the writer",
    "shorter": "shorter",
}
"""What ranks responses within a question → its name."""
SIGNALS = ("ΔV", "β Σρ", "position", "length", "chance")

MINUS = "\N{MINUS SIGN}"

Row = dict[str, Any]


def within(file: str = LLAMA2) -> str:
    """AUC within a question by share of the response read, and of matched pairs of whole responses."""
    rows = [row for row in _rows("credit/llama2") if row["file"] == file]
    lines = []
    for score, name in SCORES.items():
        own = [r for r in rows if r["score"] == score and "minus" not in r]
        cells = [_interval(_one(own, at=share, matched=False), "auc", 1) for share in SHARES]
        lines.append([name, *cells, _interval(_one(own, at=1.0, matched=True), "auc", 1)])
    for score, name in SCORES.items():
        apart = [r for r in rows if r.get("minus") == score]
        if apart:
            cells = [_interval(_one(apart, at=share, matched=False), "auc", 1, "+") for share in SHARES]
            lines.append([f"V − {name}", *cells, _interval(_one(apart, at=1.0, matched=True), "auc", 1, "+")])
    return markdown.table(["AUC, %", *(f"{share:.0%} read" for share in SHARES), "all read, matched pairs"], lines)


def mistakes(method: str) -> str:
    """Share of wrong traces whose largest drop is at the marked first mistake, by task."""
    rows = [row for row in _rows("credit/mistakes") if row["method"] == method and row["of"] == "wrong responses"]
    tasks = sorted({row["task"] for row in rows}, key=lambda task: (task == "all", task))
    lines = [[task.replace("_", " "), *_hits([r for r in rows if r["task"] == task])] for task in tasks]
    return markdown.table(["task", "traces", *SIGNALS, "ΔV − chance", "ΔV − position"], lines)


def own_errors(size: str, legend: Legend) -> str:
    """Share of the start's wrong responses whose largest drop is at the first false equation, by value model."""
    rows = _rows(f"gsm8k/{size}/errors")
    lines = []
    for model in dict.fromkeys(row["value_model"] for row in rows):
        own = [r for r in rows if r["value_model"] == model]
        hits = _hits([r for r in own if r["of"] == "wrong responses"])
        kind = (_one(own, signal="ΔV", metric=metric) for metric in ("below_kind_position", "below_kind_prompt"))
        lines.append([legend.label(model), *hits, *(_interval(row, "estimate") for row in kind)])
    header = [
        "V of",
        "responses",
        *SIGNALS,
        "ΔV − chance",
        "ΔV − position",
        "below its kind, place",
        "below its kind, problem",
    ]
    return markdown.table(header, lines)


def _hits(rows: list[Row]) -> list[str]:
    """Number of responses, the hits of every signal, and how far ΔV is above chance and position."""
    hits = [_one(rows, signal=signal, metric="hit") for signal in SIGNALS]
    apart = [_one(rows, signal="ΔV", metric="hit_minus", minus=other) for other in ("chance", "position")]
    number = next(str(row["n"]) for row in hits if row)
    return [
        number,
        *(_interval(row, "estimate") for row in hits),
        *(_interval(row, "estimate", sign="+") for row in apart),
    ]


def _rows(folder: str) -> list[Row]:
    rows: list[Row] = json.loads((RUNS / folder / "results.json").read_text(encoding="utf-8"))
    return rows


def _one(rows: Iterable[Row], **wanted: Any) -> Row | None:
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)


def _interval(row: Row | None, name: str, digits: int = 1, sign: str = "") -> str:
    """An estimate and its interval, in percent."""
    if row is None:
        return MISSING
    estimate, low, high = (f"{100 * row[key]:{sign}.{digits}f}" for key in (name, "low", "high"))
    return f"{estimate} ({low} to {high})".replace("-", MINUS)
