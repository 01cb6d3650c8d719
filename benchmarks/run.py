"""Measures everything and writes benchmarks/results.json: make benchmark, or python -m benchmarks.run [--part head …]

Each part is written as soon as it is measured, and replaces the rows of that part on that device; so parts can be
measured apart, and rows of a CPU and of a GPU stand side by side. With a GPU, head, step and collection have the shape
of Qwen2.5-1.5B, in bf16. `--long` measures every shape of the head, and steps of 16 prompts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import collect, head, search, step
from benchmarks.step_schemes import SCHEMES, SHORT
from stepcredit.files import read_json, write_json

RESULTS = Path(__file__).with_name("results.json")
Rows = list[dict[str, Any]]


def parts(device: str, repeats: int, long: bool) -> dict[str, Callable[[], Rows]]:
    """Returns what measures each part on a device; a search is measured on a CPU alone."""
    if device == "cuda":
        return {
            "head": lambda: head.rows(device, repeats),
            "step": lambda: step.rows(device, repeats, prompts=4, workload="qwen"),
            "collect": lambda: collect.rows(device, repeats),
        }
    prompts, of_steps, schemes = (16, 1, tuple(SCHEMES)) if long else (2, repeats, SHORT)
    return {
        "head": lambda: head.rows(device, repeats, long),
        "step": lambda: step.rows(device, of_steps, prompts, "smollm2", schemes),
        "collect": lambda: collect.rows(device, repeats),
        "search": lambda: search.rows(min(repeats, 2)),
    }


def merged(old: Rows, new: Rows) -> Rows:
    """Returns the old rows with those of the new rows' parts, devices and sizes of a step replaced."""

    def kind(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["part"], row["device"], row.get("episodes")

    replaced = {kind(row) for row in new}
    return [row for row in old if kind(row) not in replaced] + new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["head", "step", "collect", "search"], help="default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="more shapes and larger steps: hours")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    found: Any = read_json(args.output) if args.output.exists() else []
    for part, measure in parts(device, args.repeats, args.long).items():
        if args.part and part not in args.part:
            continue
        start = time.perf_counter()
        found = merged(found, measure())
        write_json(args.output, found)
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
