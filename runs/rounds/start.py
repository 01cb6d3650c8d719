"""The start of a seed: the policy that `stepcredit compare` trains on demonstrations of an embedded task.

python runs/rounds/start.py TASK SEED SFT_STEPS FOLDER
"""

import sys
from pathlib import Path

from stepcredit.experiments.grid import Run, run_grid
from stepcredit.experiments.initial_policy import Embedded, Scratch, demonstrated_policy
from stepcredit.tasks.registry import load_task


def make_start(folder: Path, task_name: str, seed: int, steps: int) -> dict[str, str]:
    """Writes the policy to `policy/` in a folder."""
    task = load_task(task_name)
    assert isinstance(task, Embedded)
    demonstrated_policy(task, folder, seed, Scratch(steps=steps))
    return {"policy": "policy"}


if __name__ == "__main__":
    name, number, count, out = sys.argv[1:]
    settings = {"task_name": name, "seed": int(number), "steps": int(count)}
    run_grid([Run(Path(out), make_start, settings)], "start", jobs=1, threads=1)
