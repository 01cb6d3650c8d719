"""The results of all iterations of a task, in one folder: python runs/rounds/gather.py FOLDER_OF_A_TASK OUT

Writes results.json (methods × seeds × rounds), pairs.json (methods after the last round, on the same problems),
run.json, timings.json (seconds per stage, over all iterations) and rounds.svg.
"""

import sys
from collections import Counter
from pathlib import Path

from stepcredit.episodes.store import load_episodes
from stepcredit.experiments.pairs import pair_rows
from stepcredit.experiments.variants import legend
from stepcredit.files import read_json, write_json
from stepcredit.report.figures import round_panels
from stepcredit.report.legend import Legend
from stepcredit.report.scores import aggregate
from stepcredit.results.row_files import read_rows, write_rows
from stepcredit.results.schema import AccuracyRow, written
from stepcredit.verdict import Verdict

SETTINGS = ("task", "model", "method", "seed", "settings", "best_round", "stopped")
"""Entries of run.json that differ between iterations."""


def last_round(iteration: Path) -> dict[str, object]:
    """The test rows of the last round of an iteration, and for each which problems were solved, for `pair_rows`."""
    rows = [row for row in read_rows(iteration / "results.json", AccuracyRow) if row.split == "test"]
    last = max(row.round or 0 for row in rows)
    right, problems = [], []
    for row in (rows := [row for row in rows if row.round == last]):
        (folder,) = (iteration / f"round{last}" / "evaluation" / f"test-{row.search}" / "responses").glob("*/")
        episodes = list(load_episodes(folder))
        right.append([int(e.verdict is Verdict.RIGHT) for e in episodes])
        problems.append([e.prompt_id for e in episodes])
    return {"rows": [written(row) for row in rows], "right": right, "problems": problems}


def seconds(iterations: list[Path]) -> list[dict[str, object]]:
    """Seconds per stage, over all rounds of all iterations."""
    total: Counter[str] = Counter()
    for manifest in (m for iteration in iterations for m in sorted(iteration.glob("round*/manifest.json"))):
        total.update(read_json(manifest)["seconds"])
    return [{"phase": stage, "seconds": round(total[stage], 1)} for stage in ("collect", "train", "evaluate")]


def gather(folder: Path, out: Path) -> None:
    """Writes the result files of a task."""
    iterations = sorted(path.parent for path in folder.glob("*/results.json"))
    runs = [read_json(iteration / "run.json") for iteration in iterations]
    rows = [row for iteration in iterations for row in read_rows(iteration / "results.json", AccuracyRow)]
    tested = [row for row in rows if row.split == "test"]
    methods = legend(dict.fromkeys(row.method for row in rows))
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "results.json", [with_short_policy(row) for row in rows])
    write_rows(out / "pairs.json", pair_rows(folder.name, [last_round(iteration) for iteration in iterations]))
    shared = {name: value for name, value in runs[0].items() if name not in SETTINGS}
    per_method = {run["method"]: run["settings"] for run in runs}
    write_json(out / "run.json", {**shared, "task": folder.name, "settings": per_method, "methods": methods})
    write_json(out / "timings.json", seconds(iterations))
    (panel,) = round_panels(aggregate(tested, Legend(methods)), Legend(methods))
    svg = panel.svg.replace("<svg", '<svg style="background: #fff" font-family="sans-serif"', 1)
    (out / "rounds.svg").write_text(svg.replace("currentColor", "#000") + "\n", encoding="utf-8")


def with_short_policy(row: AccuracyRow) -> AccuracyRow:
    """A row whose policy is named without the folder that it was made in."""
    policy = row.policy if row.round else "start"
    return AccuracyRow(**{**vars(row), "policy": policy})


if __name__ == "__main__":
    gather(Path(sys.argv[1]), Path(sys.argv[2]))
