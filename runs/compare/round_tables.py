"""Table of docs/results.md about rounds, from the result files of runs/rounds."""

from __future__ import annotations

from pathlib import Path

import markdown_tables as markdown

from stepcredit.report.formatting import MISSING
from stepcredit.report.legend import Legend
from stepcredit.report.scores import aggregate, search_label
from stepcredit.results.row_files import read_rows
from stepcredit.results.schema import AccuracyRow

ROUNDS = Path(__file__).resolve().parent.parent / "rounds"
"""A folder per embedded task."""


def round_table(folder: Path, legend: Legend) -> str:
    """Methods and searches × rounds: test accuracy in percent, mean over seeds ± its standard error."""
    rows = [row for row in read_rows(folder / "results.json", AccuracyRow) if row.split == "test"]
    found = {(s.method, s.search, s.round): s.percent for s in aggregate(rows, legend)}
    rounds = sorted({number or 0 for _, _, number in found})
    lines = dict.fromkeys((method, search) for method, search, _ in found)
    return markdown.table(
        ["method", *("start" if k == 0 else f"round {k}" for k in rounds)],
        [
            [
                f"{legend.label(method)}, {search_label(search)}",
                *(found.get((method, search, k), MISSING) for k in rounds),
            ]
            for method, search in sorted(lines, key=lambda line: (line[1], list(lines).index(line)))
        ],
    )
