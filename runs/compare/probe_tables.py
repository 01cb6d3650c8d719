"""Tables of docs/results.md about linear probes of hidden states, from the files that runs/credit/probes.py writes."""

from __future__ import annotations

from collections.abc import Callable

import markdown_tables as markdown
from credit_tables import BELOW, RUNS, SHARES, Row, interval, one

from stepcredit.files import read_json
from stepcredit.report.formatting import points, share

WITHOUT_MODEL = ("position", "chance")


def mistakes() -> str:
    """How often the largest drop of a probe is at the marked first mistake, by task."""
    rows = [row for row in _rows("mistakes") if row["metric"] in ("hit", "hit_minus")]
    tasks = sorted({row["task"] for row in rows}, key=lambda task: (task == "all", task))

    def cells(labels: str, layer: int, signal: str) -> list[str]:
        own = [r for r in rows if (r["labels"], r["layer"], r["signal"]) == (labels, layer, signal)]
        hits = [interval(one(own, task=task, metric="hit"), "estimate") for task in tasks]
        apart = [one(own, task="all", metric="hit_minus", minus=other) for other in WITHOUT_MODEL]
        return [*hits, *(interval(row, "estimate", points) for row in apart)]

    probes = dict.fromkeys((row["labels"], row["layer"]) for row in rows)
    lines = [[labels, str(layer), *cells(labels, layer, "ΔV")] for labels, layer in probes]
    lines += [[name, "", *cells(*next(iter(probes)), name)] for name in WITHOUT_MODEL]
    header = ["learned from", "layer", *(task.replace("_", " ") for task in tasks)]
    return markdown.table([*header, *(f"all − {name}" for name in WITHOUT_MODEL)], lines)


def own() -> str:
    """How often it is at the first false equation of the start's own responses, and what V knows of them at the end."""
    rows = _rows("own", "gsm8k/cpu/probes")
    lines = []
    for labels, layer in dict.fromkeys((row["labels"], row["layer"]) for row in rows):
        mine = [r for r in rows if (r["labels"], r["layer"], r["signal"]) == (labels, layer, "ΔV")]
        hit = one(mine, metric="hit")
        found = [hit, *(one(mine, metric=metric) for metric in BELOW)]
        known = [share(hit[f"auc_{pairs}"]) for pairs in ("across", "within")] if hit else []
        lines.append([labels, str(layer), *(interval(row, "estimate") for row in found), *known])
    header = ["learned from", "layer", "largest drop there", "below its kind, same place"]
    header += ["below its kind, same problem", "AUC at the end, across", "AUC at the end, within a problem"]
    return markdown.table(header, lines)


def llama2() -> str:
    """AUC within a question of the probes, and of the bag of words fitted to the same responses."""
    rows = _rows("llama2")
    lines = []

    def line(name: str, found: list[Row], form: Callable[[float], str] = share) -> None:
        cells = [interval(one(found, at=read, matched=False), "auc", form) for read in SHARES]
        lines.append([name, *cells, interval(one(found, at=1.0, matched=True), "auc", form)])

    for layer in dict.fromkeys(row["layer"] for row in rows):
        mine = [r for r in rows if (r["layer"], r["score"]) == (layer, "value")]
        line(f"layer {layer}", [r for r in mine if "minus" not in r])
        line(f"layer {layer} − bag of words", [r for r in mine if r.get("minus") == "bag_of_words"], points)
    line("bag of words", [r for r in rows if r["score"] == "bag_of_words"])
    return markdown.table(["AUC, %", *(f"{read:.0%} read" for read in SHARES), "all read, matched pairs"], lines)


TABLES = {"mistakes": mistakes, "own": own, "llama2": llama2}


def _rows(source: str, folder: str = "credit/probes") -> list[Row]:
    rows: list[Row] = read_json(RUNS / folder / f"{source}.json")
    return rows
