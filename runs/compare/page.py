"""The tables of docs/results.md and README.md, made anew from the result files beside this script.

The pages' own words stay; between `<!-- TASK TABLE -->` and `<!-- end -->` stands what is generated.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean
from typing import Any

import credit_tables as credit
import markdown_tables as markdown
import pretrained_tables as pretrained
import probe_tables
from reply_tables import replies, replies_svg, replies_table, temperatures_table
from round_tables import ROUNDS, round_table

from stepcredit.files import read_json
from stepcredit.report.cost import cost_svg, standing
from stepcredit.report.figures import accuracy_svg
from stepcredit.report.legend import Legend
from stepcredit.report.scores import Score, aggregate
from stepcredit.report.step_credit import SignalTable, foresight, localisation
from stepcredit.results.row_files import read_object, read_rows
from stepcredit.results.schema import AccuracyRow, PairRow, SignalRow

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs" / "results.md"
README = HERE.parent.parent / "README.md"
MARKER = re.compile(r"(<!-- (?P<task>\w+) (?P<table>\w+) -->\n)(?P<old>.*?)(<!-- end -->)", re.DOTALL)


LEGEND = Legend(read_object(HERE / "methods.json"))


def rows(task: str, name: str) -> list[AccuracyRow]:
    return read_rows(HERE / task / f"{name}.json", AccuracyRow)


def pairs(task: str) -> list[PairRow]:
    return read_rows(HERE / task / "pairs.json", PairRow)


def signals(task: str) -> list[SignalRow]:
    return read_rows(HERE / task / "localisation.json", SignalRow)


def written(found: SignalTable) -> str:
    return markdown.table(found.header, found.lines)


REPRODUCED = HERE.parent / "reproduce"
NOT_RUN = "not run: pretrained weights were not at hand"


def published_table() -> str:
    """The paper's accuracies beside ours, a row for each method of each recipe; a row that was not run says so."""
    known = read_object(REPRODUCED / "published.json")
    lines = ["| recipe | method | paper | ours |", "| --- | --- | ---: | ---: |"]
    for recipe, theirs in known["recipes"].items():
        folder = REPRODUCED / recipe
        ours = {s.method: s.percent for s in aggregate(read_rows(folder / "results.json", AccuracyRow))}
        for method, accuracy in theirs.items():
            lines.append(f"| {recipe} | {LEGEND.label(method)} | {accuracy} | {ours.get(method, NOT_RUN)} |")
    return "\n".join(lines)


def summary() -> str:
    """Greedy accuracy of every method on what all were compared on, pretrained model first."""
    columns = {"arithmetic": rows("arithmetic", "results"), "chain": rows("chain", "results")}
    if (seeds := pretrained.SIZES / "cpu" / "seeds" / "results.json").exists():
        columns = {"problems in words, SmolLM2-135M": read_rows(seeds, AccuracyRow), **columns}
    return markdown.summary_table(columns, LEGEND)


SEARCHED = HERE.parent / "search"


def searched(task: str) -> list[Score]:
    """The scores of the searches on a task."""
    return aggregate(read_rows(SEARCHED / task / "results.json", AccuracyRow), LEGEND)


ACTED = HERE.parent / "alfworld"
SPLITS = ("valid_unseen", "valid_seen")


def acted(name: str) -> list[AccuracyRow]:
    """The result rows of the run on built ALFWorld games."""
    return read_rows(ACTED / f"{name}.json", AccuracyRow)


def measured(name: str) -> list[dict[str, Any]]:
    """What a script of that run wrote beside them."""
    rows: Any = read_json(ACTED / f"{name}.json")
    return list(rows)


def turn_table() -> str:
    """Shares of turns that change nothing on unseen rooms, in percent, mean over seeds: a row for each policy with one
    reply a turn, and with the most valued of the most replies."""
    unseen = [row for row in measured("turns") if row["split"] == SPLITS[0]]
    most = max((row["width"] for row in unseen if row["search"] == "best-of"), default=1)
    shown = {("sample", 1): "sampled", ("best-of", most): f"most valued of {most}"}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in unseen:
        if how := shown.get((row["search"], row["width"])):
            at = f" at {row['temperature']:g}" if "temperature" in row else ""
            found.setdefault(f"{LEGEND.label(row['method'])}, {how}{at}", []).append(row)
    kinds = ("idle", "go in vain", "take in vain", "other in vain")
    means = {name: [100 * mean(row[kind] for row in of) for kind in kinds] for name, of in found.items()}
    idlest_first = sorted(means.items(), key=lambda item: -item[1][0])
    lines = [[name, *(f"{share:.1f}" for share in shares)] for name, shares in idlest_first]
    return markdown.table(["policy, unseen rooms", *kinds], lines)


def gain_table() -> str:
    """What choosing by V is worth game by game, in points, with 95% intervals."""
    lines = []
    for row in measured("wide-gains"):
        points, low, high = (100 * row[name] for name in ("estimate", "low", "high"))
        lines.append([str(row["of"]), f"{points:+.1f}", f"{low:+.1f} to {high:+.1f}"])
    return markdown.table(["games won, points", "difference", "95% interval"], lines)


TABLES = {
    "acting": lambda task: markdown.split_table(acted("results"), SPLITS, ("sample", "greedy"), LEGEND),
    "pretrained": lambda task: markdown.split_table(acted("pretrained/results"), SPLITS, ("sample", "greedy"), LEGEND),
    "fourth": lambda task: markdown.split_table(acted("seed3/results"), SPLITS, ("sample", "greedy"), LEGEND),
    "careless": lambda task: markdown.split_table(
        acted("careless-0.5/results"), SPLITS[:1], ("sample", "greedy"), LEGEND
    ),
    "turns": lambda task: turn_table(),
    "replies": lambda task: replies_table(acted("results"), SPLITS, LEGEND),
    "cool": lambda task: replies_table(acted("cool"), SPLITS, LEGEND),
    "wide": lambda task: replies_table(acted("wide"), SPLITS, LEGEND),
    "gains": lambda task: gain_table(),
    "temperatures": lambda task: temperatures_table(acted("temperatures"), SPLITS, LEGEND),
    "second": lambda task: replies_table(acted("second"), SPLITS, LEGEND),
    "rounds": lambda task: round_table(ROUNDS / task.replace("_", "-"), LEGEND),
    "scores": lambda task: markdown.score_table(rows(task, "results"), LEGEND),
    "grid": lambda task: markdown.grid_table(rows(task, "grid"), LEGEND),
    "greedy": lambda task: markdown.pair_table(pairs(task), "oreo", "greedy", LEGEND),
    "sample": lambda task: markdown.pair_table(pairs(task), "oreo", "sample", LEGEND),
    "localisation": lambda task: written(localisation(signals(task))),
    "auc": lambda task: written(foresight(signals(task))),
    "calibration": lambda task: markdown.calibration_table(signals(task), "oreo V", "oreo continuations"),
    "beside": lambda task: markdown.cost_table(searched(task), "sft"),
    "trained": lambda task: markdown.cost_table(searched(task), "oreo"),
    "published": lambda paper: published_table(),
    "summary": lambda task: summary(),
    "within": lambda task: credit.within(),
    "mistakes": credit.mistakes,
    "supervised": lambda source: credit.supervised(),
    "places": credit.places,
    "probed": lambda source: probe_tables.TABLES[source](),
}


def page(text: str) -> str:
    """The page with its tables made anew; those of a task that has not been run stay as they are."""

    def made(found: re.Match[str]) -> str:
        if found["task"] == "alfworld" and not (ACTED / "results.json").exists():
            return found[0]
        if found["task"] in ("arithmetic", "chain") and not (HERE / found["task"]).is_dir():
            return found[0]
        if found["task"] in ("cpu", "math", "gpu"):
            return f"{found[1]}\n{pretrained.TABLES[found['table']](found['task'], LEGEND)}\n\n{found[5]}"
        return f"{found[1]}\n{TABLES[found['table']](found['task'])}\n\n{found[5]}"

    return MARKER.sub(made, text)


def figure(task: str) -> str:
    """Accuracies of a task as a picture that stands by itself."""
    return standing(accuracy_svg(aggregate(rows(task, "results"), LEGEND), LEGEND))


if __name__ == "__main__":
    for folder in sorted(f for f in HERE.iterdir() if (f / "results.json").exists()):
        (folder / "accuracy.svg").write_text(figure(folder.name), encoding="utf-8")
    for folder in sorted(f for f in SEARCHED.iterdir() if (f / "results.json").exists()):
        (folder / "cost.svg").write_text(standing(cost_svg(searched(folder.name))), encoding="utf-8")
    for rows_of, picture in (("results", "replies"), ("cool", "cool")):
        if replies(acted(rows_of), SPLITS, LEGEND):
            drawn = standing(replies_svg(acted(rows_of), SPLITS, LEGEND, picture))
            (ACTED / f"{picture}.svg").write_text(drawn, encoding="utf-8")
    for file in (PAGE, README):
        file.write_text(page(file.read_text(encoding="utf-8")), encoding="utf-8")
        print(file)
