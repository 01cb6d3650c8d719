"""The tables of docs/results.md, made anew from the result files beside this script.

The page's own words stay; between `<!-- TASK TABLE -->` and `<!-- end -->` stands what is generated.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean

from stepcredit.report import markdown
from stepcredit.report.cost import cost_svg, cost_table, standing
from stepcredit.report.figures import accuracy_svg
from stepcredit.report.pairs import read_pairs
from stepcredit.report.replies import replies, replies_svg, replies_table, temperatures_table
from stepcredit.report.scores import Score, aggregate, method_label
from stepcredit.report.tables import percent
from stepcredit.results.fields import Row, read_object, read_rows, row_of

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs" / "results.md"
MARKER = re.compile(r"(<!-- (?P<task>\w+) (?P<table>\w+) -->\n)(?P<old>.*?)(<!-- end -->)", re.DOTALL)


def rows(task: str, name: str) -> list[Row]:
    path = HERE / task / f"{name}.json"
    return [row_of(row, str(path)) for row in read_rows(path) or []]


REPRODUCED = HERE.parent / "reproduce"
NOT_RUN = "not run: pretrained weights were not at hand"


def published_table() -> str:
    """The paper's accuracies beside ours, a row for each method of each recipe; a row that was not run says so."""
    known = read_object(REPRODUCED / "published.json") or {}
    lines = ["| recipe | method | paper | ours |", "| --- | --- | ---: | ---: |"]
    for recipe, theirs in row_of(known["recipes"], "recipes").items():
        folder = REPRODUCED / recipe
        found = aggregate([row_of(row, recipe) for row in read_rows(folder / "results.json") or []])
        ours = {score.method: percent(score) for score in found}
        for method, accuracy in row_of(theirs, recipe).items():
            lines.append(f"| {recipe} | {method_label(method)} | {accuracy} | {ours.get(method, NOT_RUN)} |")
    return "\n".join(lines)


SEARCHED = HERE.parent / "search"


def searched(task: str) -> list[Score]:
    """The scores of the searches on a task."""
    path = SEARCHED / task / "results.json"
    return aggregate([row_of(row, str(path)) for row in read_rows(path) or []])


ACTED = HERE.parent / "alfworld"
SPLITS = ("valid_unseen", "valid_seen")


def acted(name: str) -> list[Row]:
    """The result rows of the run on built ALFWorld games."""
    path = ACTED / f"{name}.json"
    return [row_of(row, str(path)) for row in read_rows(path) or []]


def turn_table() -> str:
    """Shares of turns that change nothing on unseen rooms, in percent, mean over seeds: a row for each policy with one
    reply a turn, and with the most valued of the most replies."""
    unseen = [row for row in acted("turns") if row["split"] == SPLITS[0]]
    most = max((row["width"] for row in unseen if row["search"] == "best-of"), default=1)
    shown = {("sample", 1): "sampled", ("best-of", most): f"most valued of {most}"}
    found: dict[str, list[Row]] = {}
    for row in unseen:
        if how := shown.get((row["search"], row["width"])):
            at = f" at {row['temperature']:g}" if "temperature" in row else ""
            found.setdefault(f"{method_label(row['method'])}, {how}{at}", []).append(row)
    kinds = ("idle", "go in vain", "take in vain", "other in vain")
    means = {name: [100 * mean(row[kind] for row in of) for kind in kinds] for name, of in found.items()}
    idlest_first = sorted(means.items(), key=lambda item: -item[1][0])
    lines = [[name, *(f"{share:.1f}" for share in shares)] for name, shares in idlest_first]
    return markdown.table(["policy, unseen rooms", *kinds], lines)


def gain_table() -> str:
    """What choosing by V is worth game by game, in points, with 95% intervals."""
    lines = []
    for row in acted("wide-gains"):
        points, low, high = (100 * row[name] for name in ("estimate", "low", "high"))
        lines.append([str(row["of"]), f"{points:+.1f}", f"{low:+.1f} to {high:+.1f}"])
    return markdown.table(["games won, points", "difference", "95% interval"], lines)


TABLES = {
    "acting": lambda task: markdown.split_table(acted("results"), SPLITS, ("sample", "greedy")),
    "fourth": lambda task: markdown.split_table(acted("seed3/results"), SPLITS, ("sample", "greedy")),
    "careless": lambda task: markdown.split_table(acted("careless-0.5/results"), SPLITS[:1], ("sample", "greedy")),
    "turns": lambda task: turn_table(),
    "replies": lambda task: replies_table(acted("results"), SPLITS),
    "cool": lambda task: replies_table(acted("cool"), SPLITS),
    "wide": lambda task: replies_table(acted("wide"), SPLITS),
    "gains": lambda task: gain_table(),
    "temperatures": lambda task: temperatures_table(acted("temperatures"), SPLITS),
    "second": lambda task: replies_table(acted("second"), SPLITS),
    "scores": lambda task: markdown.score_table(rows(task, "results")),
    "grid": lambda task: markdown.grid_table(rows(task, "grid")),
    "greedy": lambda task: markdown.pair_table(read_pairs(rows(task, "pairs")), "oreo", "greedy"),
    "sample": lambda task: markdown.pair_table(read_pairs(rows(task, "pairs")), "oreo", "sample"),
    "localisation": lambda task: markdown.localisation_table(rows(task, "localisation")),
    "auc": lambda task: markdown.auc_table(rows(task, "localisation")),
    "calibration": lambda task: markdown.calibration_table(rows(task, "localisation"), "oreo V", "oreo continuations"),
    "beside": lambda task: cost_table(searched(task), "sft"),
    "trained": lambda task: cost_table(searched(task), "oreo"),
    "published": lambda paper: published_table(),
}


def page(text: str) -> str:
    """The page with its tables made anew; those of a task that has not been run stay as they are."""

    def made(found: re.Match[str]) -> str:
        if found["task"] == "alfworld" and not (ACTED / "results.json").exists():
            return found[0]
        if found["task"] in ("arithmetic", "chain") and not (HERE / found["task"]).is_dir():
            return found[0]
        return f"{found[1]}\n{TABLES[found['table']](found['task'])}\n\n{found[5]}"

    return MARKER.sub(made, text)


def figure(task: str) -> str:
    """Accuracies of a task as a picture that stands by itself."""
    return standing(accuracy_svg(aggregate(rows(task, "results"))))


if __name__ == "__main__":
    for folder in sorted(f for f in HERE.iterdir() if (f / "results.json").exists()):
        (folder / "accuracy.svg").write_text(figure(folder.name), encoding="utf-8")
    for folder in sorted(f for f in SEARCHED.iterdir() if (f / "results.json").exists()):
        (folder / "cost.svg").write_text(standing(cost_svg(searched(folder.name))), encoding="utf-8")
    for rows_of, picture in (("results", "replies"), ("cool", "cool")):
        if replies(acted(rows_of), SPLITS):
            drawn = standing(replies_svg(acted(rows_of), SPLITS, picture))
            (ACTED / f"{picture}.svg").write_text(drawn, encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
