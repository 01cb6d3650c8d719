"""Merge the rows of several quickstart runs into one file per kind of result: python gather.py FOLDER_OF_RUNS OUT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stepcredit.files import write_json
from stepcredit.results.store import add_rows, read_rows


def main(runs: Path, out: Path) -> None:
    """Read one folder per seed; write `results.json`, `value.json` and the settings of the first run."""
    folders = sorted(p for p in runs.iterdir() if p.is_dir())
    for name in ("results.json", "value.json"):
        for folder in folders:
            add_rows(out / name, read_rows(folder / name))
    first = (folders[0] / "run.json").read_text(encoding="utf-8")
    write_json(out / "run.json", json.loads(first))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
