"""Tables of docs/results.md about pretrained models, from the result files of runs/gsm8k and runs/credit."""

from __future__ import annotations

import json
from pathlib import Path

import markdown_tables as markdown
from credit_tables import known, own_errors, own_places
from round_tables import round_table

from stepcredit.report.formatting import MISSING, p_value, points, share
from stepcredit.report.legend import Legend
from stepcredit.report.scores import aggregate
from stepcredit.results.row_files import read_rows
from stepcredit.results.schema import AccuracyRow, PairRow

RUNS = Path(__file__).resolve().parent.parent
SIZES = RUNS / "gsm8k"
"""A folder per size of the run."""
VALUES = {
    "squared": "squared loss, as above",
    "categorical": "categorical",
    "four-updates": "squared loss, four updates of V for each of the policy",
    "longer": "squared loss, 32 updates of the policy after 8 of V alone",
}
"""Folders of runs/gsm8k/values.sh → how V was fitted."""
TRANSFER = ("svamp", "gsm8k_short")


def start(size: str, legend: Legend) -> str:
    """Accuracy of the start on the validation problems."""
    rows = read_rows(SIZES / size / "start.json", AccuracyRow)
    return markdown.split_table(rows, ("validation",), ("greedy", "sample"), legend)


def temperatures(size: str, legend: Legend) -> str:
    """Accuracy of the start on the test problems, one sample each, by temperature."""
    rows = read_rows(SIZES / size / "temperatures.json", AccuracyRow)
    lines = [
        [f"{row.temperature:g}", f"{100 * row.accuracy:.1f} ± {100 * row.stderr:.1f}"]
        for row in sorted(rows, key=lambda row: row.temperature or 1.0)
    ]
    return markdown.table(["temperature of the start", "test, one sample each"], lines)


def scores(size: str, legend: Legend, part: str = "seeds") -> str:
    """Accuracy of every method on the test problems."""
    rows = read_rows(SIZES / size / part / "results.json", AccuracyRow)
    return markdown.score_table([row for row in rows if row.split == "test"], legend)


def transfer(size: str, legend: Legend) -> str:
    """Accuracy on problems of other sources."""
    rows = read_rows(SIZES / size / "seeds" / "results.json", AccuracyRow)
    return markdown.split_table(rows, TRANSFER, ("greedy",), legend)


def against(size: str, search: str, legend: Legend, method: str = "oreo") -> str:
    """A method against every other on the same test problems."""
    pairs = read_rows(SIZES / size / "seeds" / "pairs.json", PairRow)
    return markdown.pair_table([pair for pair in pairs if pair.split == "test"], method, search, legend, True)


def gains(size: str, legend: Legend) -> str:
    """Every method against the start on the same test problems, greedily and sampled."""
    pairs = read_rows(SIZES / size / "seeds" / "pairs.json", PairRow)
    of_start = [markdown.seen_from(pair, "sft") for pair in pairs if "sft" in (pair.method_a, pair.method_b)]
    cells: dict[str, list[str]] = {}
    for search in ("greedy", "sample"):
        for pair in (p for p in of_start if p.split == "test" and p.search == search):
            gain, low, high = (points(-x) for x in (pair.difference, pair.high, pair.low))
            cells.setdefault(pair.method_b, []).extend([f"{gain} ({low} to {high})", p_value(pair.p)])
    header = ["method − start", "greedy", "p", "sample", "p"]
    return markdown.table(header, [[legend.label(method), *row] for method, row in cells.items()])


def values(size: str, legend: Legend) -> str:
    """OREO with V fitted in other ways: accuracy on the validation problems, and V's explained variance."""
    lines = []
    for name, label in VALUES.items():
        folder = SIZES / size / "values" / name
        if not folder.exists():
            continue
        rows = {row.search: row for row in read_rows(folder / "results.json", AccuracyRow)}
        ((_, curve),) = json.loads((folder / "curves.json").read_text()).items()
        explained = [point["values/explained_variance"] for point in curve]
        accuracy = [f"{100 * rows[s].accuracy:.1f} ± {100 * rows[s].stderr:.1f}" for s in ("greedy", "sample")]
        lines.append([label, *accuracy, f"{explained[-1]:.2f}"])
    return markdown.table(["V", "greedy", "sample", "V's explained variance, last updates"], lines)


def grid(size: str, legend: Legend) -> str:
    """The learning rates that were tried, of all methods."""
    return markdown.grid_table(read_rows(SIZES / size / "others" / "grid.json", AccuracyRow), legend)


def attempts(size: str, legend: Legend) -> str:
    """Single runs with other settings: accuracy on the validation problems, and the last numbers of training."""
    lines = []
    for folder in sorted((SIZES / size / "attempts").iterdir()):
        rows = {row.search: row for row in read_rows(folder / "results.json", AccuracyRow)}
        ((method, curve),) = json.loads((folder / "curves.json").read_text()).items()
        explained = curve[-1].get("values/explained_variance")
        lines.append(
            [
                f"{legend.label(method)},{folder.name.removeprefix(method).replace('-', ' ', 1)}",
                *(f"{100 * rows[s].accuracy:.1f} ± {100 * rows[s].stderr:.1f}" for s in ("greedy", "sample")),
                f"{curve[-1]['entropy']:.3f}",
                MISSING if explained is None else f"{explained:.2f}",
            ]
        )
    header = ["attempt", "greedy", "four samples each", "entropy, last update", "V's explained variance, last update"]
    return markdown.table(header, lines)


def searched(size: str, method: str) -> str:
    """Searches by cost."""
    return markdown.cost_table(aggregate(read_rows(SIZES / size / "search" / "results.json", AccuracyRow)), method)


def distinct(size: str, legend: Legend) -> str:
    """How many of the sampled responses are right, how many of their distinct texts, and how V ranks them."""
    lines = [
        [
            legend.label(row["method"]),
            *(share(row[name]) for name in ("right", "right_of_distinct")),
            *(f"{row[name]:.1f}" for name in ("distinct_right", "distinct_wrong")),
            f"{share(row['ranked']['auc'])} ({share(row['ranked']['low'])} to {share(row['ranked']['high'])})",
        ]
        for row in json.loads((SIZES / size / "search" / "distinct.json").read_text())
    ]
    header = ["policy", "responses right, %", "distinct texts right, %", "right texts", "wrong texts", "AUC of V, %"]
    return markdown.table(header, lines)


def guides(size: str, legend: Legend) -> str:
    """Searches with the policy of the start and other guides; the sample has none."""
    rows = read_rows(SIZES / size / "search-attempts" / "results.json", AccuracyRow)
    lines = [
        [
            MISSING if row.search == "sample" else legend.label(row.method),
            f"{row.search}, {row.width}",
            f"{row.temperature or 1.0:g}",
            f"{100 * row.accuracy:.1f} ± {100 * row.stderr:.1f}",
            f"{row.tokens_generated:,}",
        ]
        for row in rows
    ]
    return markdown.table(["V of", "search", "temperature", "right, %", "tokens generated"], lines)


def seconds(size: str, legend: Legend) -> str:
    """Seconds of each search with OREO's policy on one core; with that of the start, parts had been done before."""
    found = json.loads((SIZES / size / "search" / "timings.json").read_text())
    names = {"greedy1": "greedy", "vote1": "pool of 16 samples, scored", "beam1": "beam, 1", "beam3": "beam, 3",
             "beam5": "beam, 5"}  # fmt: skip
    parts = [[*row["phase"].split(", "), row["seconds"]] for row in found]
    lines = [[names[label], f"{taken:.0f}"] for _, policy, label, taken in parts if policy == "oreo" and label in names]
    return markdown.table(["search, policy of OREO, 100 problems", "seconds"], lines)


def rounds(size: str, legend: Legend) -> str:
    """Accuracy after each round."""
    return round_table(SIZES / size / "rounds", legend)


TABLES = {
    "start": start,
    "temperatures": temperatures,
    "attempts": attempts,
    "seeds": scores,
    "others": lambda size, legend: scores(size, legend, "others"),
    "transfer": transfer,
    "against": lambda size, legend: against(size, "greedy", legend),
    "sampled": lambda size, legend: against(size, "sample", legend),
    "rates": grid,
    "gains": gains,
    "values": values,
    "places": own_places,
    "errors": own_errors,
    "known": known,
    "distinct": distinct,
    "guides": guides,
    "seconds": seconds,
    "beside": lambda size, legend: searched(size, "sft"),
    "rounds": rounds,
    "trained": lambda size, legend: searched(size, "oreo"),
}
"""Table → what makes it, from the size and the legend."""
