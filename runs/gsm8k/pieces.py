"""Results of finished runs, to and from the checkout: pieces.py restore|keep DIR KEPT [--value_models METHOD …]

A comparison takes hours, and DIR holds gigabytes of models. KEPT holds what another machine needs to go on: the result
of each finished run, of each seed's start also its episodes, and a hash of the start itself: its SFT may end in other
last bits on another processor, and then this is said. Runs of seed 0 whose value models are needed, for search and for
credit, are made again where these are missing (--value_models METHOD …), and their results with them.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from stepcredit.experiments.compare_runs import INITIAL
from stepcredit.experiments.grid import RESULT
from stepcredit.files import folder_written_whole, read_manifest, write_json, written_whole
from stepcredit.hashes import content_of

START = "start.json"


def keep(runs: Path, kept: Path, start: Path) -> None:
    """Copies the results of finished runs, and the episodes of starts."""
    for result in runs.glob(f"*/{RESULT}"):
        folder = kept / result.parent.name
        if result.parent.name.startswith(INITIAL) and not (folder / "episodes").exists():
            with folder_written_whole(folder / "episodes") as part:
                shutil.copytree(result.parent / "episodes", part, dirs_exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        about = read_manifest(result)
        about.pop("inputs", None)  # the start may end in other last bits
        with written_whole(folder / RESULT) as part:  # on one line: thousands of verdicts
            part.write_text(json.dumps(about) + "\n", encoding="utf-8")
    if kept.is_dir() and not (kept / START).exists():
        write_json(kept / START, {"content": content_of(str(start))})


def restore(runs: Path, kept: Path, start: Path, value_models: Sequence[str] = ()) -> None:
    """Makes folders of finished runs of what was kept; those that are there already stay as they are."""
    if (kept / START).exists() and read_manifest(kept / START)["content"] != content_of(str(start)):
        print(f"{start}: not the start of the runs in {kept}, in its last bits at least; new runs learn from this one",
              file=sys.stderr)  # fmt: skip
    for result in kept.glob(f"*/{RESULT}"):
        name, is_start = result.parent.name, result.parent.name.startswith(INITIAL)
        if (runs / name).exists() or any(re.fullmatch(f"{method}-seed0-.*-test", name) for method in value_models):
            continue
        with folder_written_whole(runs / name) as part:
            shutil.copytree(result.parent, part, dirs_exist_ok=True)
            if is_start:
                shutil.copytree(start, part / "policy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("restore", "keep"))
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("kept", type=Path, metavar="KEPT")
    parser.add_argument("--value_models", nargs="*", default=[], metavar="METHOD")
    args = parser.parse_args()
    runs, start = args.out / "compare" / "runs", args.out / "start" / "policy"
    if args.what == "keep":
        keep(runs, args.kept, start)
    elif args.kept.is_dir():
        restore(runs, args.kept, start, args.value_models)


if __name__ == "__main__":
    main()
