"""Results of finished runs, to and from the checkout: pieces.py restore|keep DIR KEPT [--value_models]

A comparison takes hours, and DIR holds gigabytes of models. KEPT holds what another machine needs to go on: the result
of each finished run, and of each seed's start also its episodes; its policy is a copy of DIR/start/policy. A run whose
value model is needed, for search and for credit, is made again where that model is missing (--value_models).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from stepcredit.experiments.compare_runs import INITIAL
from stepcredit.experiments.grid import RESULT
from stepcredit.files import folder_written_whole, read_manifest


def keep(runs: Path, kept: Path) -> None:
    """Copies the results of finished runs, and the episodes of starts."""
    for result in runs.glob(f"*/{RESULT}"):
        folder = kept / result.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        if result.parent.name.startswith(INITIAL) and not (folder / "episodes").exists():
            shutil.copytree(result.parent / "episodes", folder / "episodes")
        shutil.copy(result, folder)


def restore(runs: Path, kept: Path, start: Path, value_models: bool) -> None:
    """Makes folders of finished runs of what was kept; those that are there already stay as they are."""
    for result in kept.glob(f"*/{RESULT}"):
        name, is_start = result.parent.name, result.parent.name.startswith(INITIAL)
        if (runs / name).exists() or (value_models and _has_value_model(result)):
            continue
        with folder_written_whole(runs / name) as part:
            shutil.copytree(result.parent, part, dirs_exist_ok=True)
            if is_start:
                shutil.copytree(start, part / "policy")


def _has_value_model(result: Path) -> bool:
    row = read_manifest(result, ("result",))["result"]["rows"][0]
    return bool(row["value"]) and row["split"] == "test" and row["seed"] == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("restore", "keep"))
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("kept", type=Path, metavar="KEPT")
    parser.add_argument("--value_models", action="store_true")
    args = parser.parse_args()
    runs = args.out / "compare" / "runs"
    if args.what == "keep":
        keep(runs, args.kept)
    elif args.kept.is_dir():
        restore(runs, args.kept, args.out / "start" / "policy", args.value_models)


if __name__ == "__main__":
    main()
