"""Is `stepcredit estimate` right about SmolLM2-135M on GSM8K on this machine's CPU?

Four configurations are estimated and trained for a few steps, each in processes of its own, in alternation. Measured
are the highest resident memory of the whole training process, and the mean time of its steps without the first two: the
first also makes the proofs of `models.first_use` and the optimizer's state, the second takes memory back after them.

    make assets
    PYTHONPATH=. python runs/estimate/run.py OUT                   # some ten minutes; writes OUT/results.json
    OMP_NUM_THREADS=1 … python runs/estimate/run.py OUT --clock process     # on a busy machine: processor time
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from benchmarks.workloads import smollm2
from stepcredit.episodes.store import append_episodes
from stepcredit.files import write_json

STEPS, PROMPTS = 10, 4
CONFIGURATIONS = {
    "plain, 2 rows": ["--per_device_train_batch_size", "2", "--head", "naive"],
    "prompts shared, reference computed once, 4 rows of a prompt": [
        *("--per_device_train_batch_size", "4", "--share_prompts", "true", "--precompute_ref_log_probs", "true"),
    ],
    "LoRA on a shared trunk, prompts shared, 8 rows": [
        *("--per_device_train_batch_size", "8", "--share_prompts", "true", "--use_peft", "true"),
        *("--lora_r", "16", "--shared_trunk", "true"),
    ],
    "last 6 layers, prompts shared, 8 rows": [
        *("--per_device_train_batch_size", "8", "--share_prompts", "true", "--train_layers", "6"),
    ],
}
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


def flags(out: Path, model: str, name: str) -> list[str]:
    """The flags of a configuration, of both commands."""
    common = ["--method", "oreo", "--model", model, "--episodes", str(out / "episodes"), "--max_steps", str(STEPS)]
    rest = ["--report_to", "none", "--save_strategy", "no", "--use_cpu", "true", "--logging_steps", "1"]
    return [*common, *rest, *CONFIGURATIONS[name], "--output_dir", str(out / "trained")]


def estimated(arguments: list[str], clock: str) -> dict[str, Any]:
    """The estimate of a run."""
    from stepcredit.estimates.estimate import EstimateConfig, estimate

    config, args = parsed(EstimateConfig, [*arguments, "--device", "cpu"])
    found = estimate(config, args, CLOCKS[clock]).to_json()
    return {"memory_gb": found["memory_gb"], "seconds": found["seconds"]["step"], "parts": found["seconds_per_step"]}


def trained(arguments: list[str], clock: str) -> dict[str, Any]:
    """The highest memory and the time of a step of a run."""
    from transformers import TrainerCallback, trainer

    from stepcredit.training.train import TrainConfig, train

    class Times(TrainerCallback):
        """When each step began and ended."""

        seconds: list[float] = []  # noqa: RUF012

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = CLOCKS[clock]()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append(CLOCKS[clock]() - self.began)

    trainer.DEFAULT_CALLBACKS.append(Times)
    train(*parsed(TrainConfig, arguments))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"memory_gb": peak / 1e9, "seconds": statistics.fmean(Times.seconds[2:]), "steps": Times.seconds}


def parsed(kind: type, arguments: list[str]) -> tuple[Any, ...]:
    from stepcredit.commands.console import quiet
    from stepcredit.parsing import parse
    from stepcredit.training.configs import OREOConfig

    quiet()
    return parse("train", [kind, OREOConfig], arguments)


def in_own_process(what: str, out: Path, model: str, name: str, clock: str) -> dict[str, Any]:
    """Runs this script for one configuration; training starts without leftovers."""
    shutil.rmtree(out / "trained", ignore_errors=True)
    command = [sys.executable, __file__, str(out), "--model", model, "--clock", clock, "--only", name, "--do", what]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{name}: {ran.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model", default=None)
    parser.add_argument("--only", choices=CONFIGURATIONS, default=None)
    parser.add_argument("--do", choices=["estimate", "train"], default=None)
    given = parser.parse_args()
    if given.do is not None:
        do = estimated if given.do == "estimate" else trained
        print(json.dumps(do(flags(given.out, given.model, given.only), given.clock)))
        return
    workload = smollm2(PROMPTS)
    if workload.folder is None:
        raise SystemExit("make assets")
    if not (given.out / "episodes").exists():
        append_episodes(given.out / "episodes", workload.episodes)
    rows = []
    for name in CONFIGURATIONS if given.only is None else [given.only]:
        pairs = [
            [in_own_process(what, given.out, str(workload.folder), name, given.clock) for what in ("estimate", "train")]
            for _ in range(given.repeats)
        ]
        rows.append(row_of(name, pairs))
        print(json.dumps(rows[-1]), flush=True)
    about = {"workload": workload.label, "clock": given.clock, "steps": STEPS, **machine("cpu")}
    write_json(given.out / "results.json", {**about, "rows": rows})


def row_of(name: str, pairs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of estimates and measurements, and estimated over measured."""
    memory = [statistics.median(found["memory_gb"]["peak"] for found, _ in pairs),
              statistics.median(found["memory_gb"] for _, found in pairs)]  # fmt: skip
    seconds = [statistics.median(pair[k]["seconds"] for pair in pairs) for k in (0, 1)]
    return {
        "configuration": name,
        "memory_gb": {"estimated": round(memory[0], 3), "measured": round(memory[1], 3)},
        "memory_ratio": round(memory[0] / memory[1], 3),
        "peak_at": pairs[0][0]["memory_gb"]["at"],
        "seconds_per_step": {"estimated": round(seconds[0], 3), "measured": round(seconds[1], 3)},
        "time_ratio": round(seconds[0] / seconds[1], 3),
        "estimates": [{"memory_gb": e["memory_gb"]["parts"], "seconds": e["parts"]} for e, _ in pairs],
        "steps": [[round(s, 3) for s in t["steps"]] for _, t in pairs],
    }


if __name__ == "__main__":
    main()
