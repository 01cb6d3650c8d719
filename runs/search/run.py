"""Search against sampling at equal cost: run.py TASK COMPARISON OUT [--seeds 0 1 2] [--policies sft oreo]

COMPARISON is what `runs/compare/run.sh TASK COMPARISON` made: its SFT and OREO policies and OREO's value functions are
searched with. Rows go to OUT/results.json; finished work is kept in OUT and not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stepcredit.engines.engine import SamplingParams, load_engine
from stepcredit.episodes.steps import StepRule
from stepcredit.evaluation.response_search import ResponseSearch
from stepcredit.evaluation.rows import result_row
from stepcredit.files import write_json
from stepcredit.models.loading import load_value_model
from stepcredit.results.provenance import versions
from stepcredit.results.row_files import add_rows
from stepcredit.searching.scorers import ValueScorer
from stepcredit.searching.selection import CHOOSERS
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.registry import load_task

PROMPTS = 200
POOL = 64
WIDTHS = (1, 2, 4, 8, 16, 32, 64)
BEAMS = (1, 3, 5, 7)


def run_of(comparison: Path, method: str, seed: int) -> Path:
    """The folder of a method's test run: the one at the rate that was chosen on validation."""
    if method == "sft":
        return comparison / "runs" / f"sft-seed{seed}"
    rows = json.loads((comparison / "results.json").read_text(encoding="utf-8"))
    policy = next(r["policy"] for r in rows if (r["method"], r["seed"]) == (method, seed))
    return comparison / Path(policy).parent


def search_of(task_name: str, comparison: Path, method: str, seed: int, out: Path) -> ResponseSearch:
    task = load_task(task_name)
    value = run_of(comparison, "oreo", seed) / "value"
    engine = load_engine(str(run_of(comparison, method, seed) / "policy"), batch_size=512)
    return ResponseSearch(
        task,
        list(task.problems("test", PROMPTS, seed)),
        lambda: engine,
        ValueScorer(load_value_model(str(value))),
        StepRule(task.step_delimiters, 64),
        out / "responses" / f"{method}-seed{seed}",
        {"task": task_name, "task_version": task.version, "method": method, "seed": seed, "prompts": PROMPTS},
        POOL,
    )


def searches(params: SamplingParams) -> list[SearchSpec]:
    chosen = [SearchSpec(name, width, params) for name in CHOOSERS for width in WIDTHS]
    return [SearchSpec("greedy", 1, params), *chosen, *(SearchSpec("beam", width, params) for width in BEAMS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("comparison", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--policies", nargs="+", default=["sft", "oreo"])
    args = parser.parse_args()
    for seed in args.seeds:
        for method in args.policies:
            search = search_of(args.task, args.comparison, method, seed, args.out)
            common: dict[str, Any] = {
                "task": args.task,
                "task_version": search.task.version,
                "split": "test",
                "seed": seed,
                "method": method,
                "value": "oreo",
            }
            params = SamplingParams(search.task.max_new_tokens, seed=seed)
            rows = [result_row(search.episodes(spec), search.problems, spec, common) for spec in searches(params)]
            add_rows(args.out / "results.json", rows)
            for row in rows:
                print(seed, method, row.search, row.width, row.accuracy, row.tokens_generated, flush=True)
    write_json(args.out / "run.json", {"prompts": PROMPTS, "pool": POOL, "beams": BEAMS, **versions()})


if __name__ == "__main__":
    main()
