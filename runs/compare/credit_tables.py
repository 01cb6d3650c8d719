"""Tables of docs/results.md about credit on real errors, from the result files of runs/credit and runs/gsm8k."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import markdown_tables as markdown
import numpy as np

from stepcredit.files import read_json
from stepcredit.metrics.ranking import auc_across, auc_within
from stepcredit.report.formatting import MISSING, points, share
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
LEARNED = ("ΔV", "β Σρ")
SIGNALS = ("ΔV", "β Σρ", "position", "length", "chance")

METHODS = {"oreo": "OREO", "dqo": "DQO"}
SIGNS = {"-ΔV": "−ΔV"}

BELOW = ("below_kind_position", "below_kind_prompt")

Row = dict[str, Any]


def within() -> str:
    """AUC within a question by share of the response read, and of matched pairs of whole responses."""
    rows = [row for row in _rows("credit/llama2") if row["file"] == LLAMA2]
    lines = []
    for score, name in SCORES.items():
        own = [r for r in rows if r["score"] == score and "minus" not in r]
        cells = [interval(one(own, at=read, matched=False), "auc") for read in SHARES]
        lines.append([name, *cells, interval(one(own, at=1.0, matched=True), "auc")])
    for score, name in SCORES.items():
        apart = [r for r in rows if r.get("minus") == score]
        if apart:
            cells = [interval(one(apart, at=read, matched=False), "auc", points) for read in SHARES]
            lines.append([f"V − {name}", *cells, interval(one(apart, at=1.0, matched=True), "auc", points)])
    return markdown.table(["AUC, %", *(f"{read:.0%} read" for read in SHARES), "all read, matched pairs"], lines)


def mistakes(method: str) -> str:
    """Share of wrong traces whose largest drop is at the marked first mistake, by task."""
    rows = [row for row in _rows("credit/mistakes") if row["method"] == method and row["of"] == "wrong responses"]
    tasks = sorted({row["task"] for row in rows}, key=lambda task: (task == "all", task))
    lines = [[task.replace("_", " "), *_hits([r for r in rows if r["task"] == task])] for task in tasks]
    return markdown.table(["task", "traces", *SIGNALS, "ΔV − chance", "ΔV − position"], lines)


def supervised() -> str:
    """Share of wrong traces whose largest drop is at the marked first mistake, by task, for every method and signal,
    from outcomes and from marks; differences over all tasks in points."""
    rows = [row for row in _rows("credit/mistakes") if row["of"] == "wrong responses"]
    tasks = sorted({row["task"] for row in rows}, key=lambda task: (task == "all", task))
    lines = []
    for method, signal in product(("oreo", "dqo", "oreo-process", "dqo-process"), ("ΔV", "-ΔV", "β Σρ")):
        own = [r for r in rows if (r["method"], r["signal"]) == (method, signal)]
        if own:
            learned_from = "marks" if method.endswith("-process") else "outcomes"
            lines.append([METHODS[method.removesuffix("-process")], learned_from, SIGNS.get(signal, signal)])
            hits = (one(own, task=task, metric="hit") for task in tasks)
            lines[-1] += [share(row["estimate"]) if row else MISSING for row in hits]
            for other in ("chance", "position", "β Σρ from outcomes"):
                lines[-1].append(interval(one(own, task="all", metric="hit_minus", minus=other), "estimate", points))
    for signal in ("position", "chance"):
        own = [r for r in rows if (r["method"], r["signal"], r["metric"]) == ("oreo", signal, "hit")]
        lines.append(["", "", signal, *(share(next(r["estimate"] for r in own if r["task"] == t)) for t in tasks)])
        lines[-1] += [MISSING] * 3
    header = ["method", "learned from", "signal", *(task.replace("_", " ") for task in tasks)]
    return markdown.table([*header, "all − chance", "all − position", "all − β Σρ from outcomes"], lines)


def places(method: str) -> str:
    """Where in wrong traces the largest drop of V is, and where the marked mistake, by task."""
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for file in sorted((RUNS / "credit/mistakes/pieces").glob(f"{method}-fold*.json")):
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            if not row["right"] and any(row["wrong"]):
                changes = [after - before for before, after in pairwise(row["value"])]
                found[row["task"]].append((changes.index(min(changes)), row["wrong"].index(1), len(changes)))
    lines = []
    for task, traces in sorted(found.items()):
        drops, marks, steps = zip(*traces, strict=True)
        at_ends = (fmean(d == 0 for d in drops), fmean(d == n - 1 for d, n in zip(drops, steps, strict=True)))
        middle = (f"{median(numbers):g}" for numbers in (steps, [m + 1 for m in marks], [d + 1 for d in drops]))
        lines.append([task.replace("_", " "), *middle, *(share(part) for part in at_ends)])
    header = ["task", "steps", "step of the mistake", "step of the drop", "drop at the first step, %", "at the last, %"]
    return markdown.table(header, lines)


def own_places(size: str, legend: Legend) -> str:
    """Where in the start's own wrong responses the largest drop of each V is, and where the first false equation."""
    lines = []
    for file in sorted((RUNS / f"gsm8k/{size}/errors/pieces").glob("*.json")):
        rows = [r for r in read_json(file)["rows"] if not r["right"] and any(r["wrong"])]
        drops = [(int(np.diff(row["value"]).argmin()), len(row["wrong"])) for row in rows]
        lines.append([f"largest drop of V of {legend.label(file.stem)}", *_at_ends(drops)])
    false = [(row["wrong"].index(1), len(row["wrong"])) for row in rows]
    lines.append(["first false equation", *_at_ends(false)])
    return markdown.table(["", "at the first line, %", "at the last, %"], lines)


def _at_ends(places: list[tuple[int, int]]) -> list[str]:
    """Shares of places, each with a number of lines, that are the first and the last."""
    return [share(fmean(k == 0 for k, _ in places)), share(fmean(k == lines - 1 for k, lines in places))]


def own_errors(size: str, legend: Legend) -> str:
    """How signals find the first false equation of the start's own wrong responses: those of every value model, and
    those that need none."""
    rows = [row for row in _rows(f"gsm8k/{size}/errors") if "minus" not in row]
    signals = dict.fromkeys((row["value_model"] if row["signal"] in LEARNED else "", row["signal"]) for row in rows)
    lines = []
    for model, signal in sorted(signals, key=lambda pair: not pair[0]):
        own = [r for r in rows if r["signal"] == signal and model in ("", r["value_model"])]
        hits = (one(own, metric="hit", of="wrong responses", lines=lines_of) for lines_of in ("all", "equations"))
        cells = (*hits, *(one(own, metric=metric, lines="all") for metric in BELOW))
        learned_by = legend.label(model) if model else MISSING
        lines.append([learned_by, signal, *(interval(row, "estimate") for row in cells)])
    header = [
        "learned by",
        "signal",
        "largest drop there",
        "of lines with an equation",
        "below its kind, same place",
        "below its kind, same problem",
    ]
    return markdown.table(header, lines)


def known(size: str, legend: Legend) -> str:
    """What V knows of the start's own responses: AUC of right against wrong, across problems and within one."""
    lines = []
    for file in sorted((RUNS / f"gsm8k/{size}/errors/pieces").glob("*.json")):
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        right, problems = [row["right"] for row in rows], [row["problem"] for row in rows]
        before, after = ([row["value"][k] for row in rows] for k in (0, -1))
        found = (
            auc_across(before, right, problems),
            auc_across(after, right, problems),
            auc_within(after, right, problems),
        )
        lines.append([legend.label(file.stem), *(interval(auc._asdict(), "estimate") for auc in found)])
    header = ["V of", "after the prompt, across", "after the response, across", "after the response, within a problem"]
    return markdown.table(header, lines)


def _hits(rows: list[Row]) -> list[str]:
    """Number of responses, the hits of every signal, and how far ΔV is above chance and position."""
    hits = [one(rows, signal=signal, metric="hit") for signal in SIGNALS]
    apart = [one(rows, signal="ΔV", metric="hit_minus", minus=other) for other in ("chance", "position")]
    number = next(str(row["n"]) for row in hits if row)
    return [
        number,
        *(interval(row, "estimate") for row in hits),
        *(interval(row, "estimate", form=points) for row in apart),
    ]


def _rows(folder: str) -> list[Row]:
    rows: list[Row] = json.loads((RUNS / folder / "results.json").read_text(encoding="utf-8"))
    return rows


def one(rows: Iterable[Row], **wanted: Any) -> Row | None:
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)


def interval(row: Row | None, name: str, form: Callable[[float], str] = share) -> str:
    """An estimate and its interval, in percent."""
    if row is None:
        return MISSING
    return f"{form(row[name])} ({form(row['low'])} to {form(row['high'])})"
