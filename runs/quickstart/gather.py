"""Merge the rows of several quickstart runs into one file per kind of result: python gather.py FOLDER_OF_RUNS OUT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stepcredit.files import write_json
from stepcredit.results.row_files import add_rows, read_rows
from stepcredit.results.schema import AccuracyRow, ValueRow


def main(runs: Path, out: Path) -> None:
    """Read one folder per seed; write `results.json`, `value.json` and the settings of the first run."""
    folders = sorted(p for p in runs.iterdir() if p.is_dir())
    for folder in folders:
        add_rows(out / "results.json", read_rows(folder / "results.json", AccuracyRow))
        add_rows(out / "value.json", read_rows(folder / "value.json", ValueRow))
    first = (folders[0] / "run.json").read_text(encoding="utf-8")
    write_json(out / "run.json", json.loads(first))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
