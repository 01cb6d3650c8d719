"""Search against sampling at equal cost: run.py TASK COMPARISON OUT [--seeds 0 1 2] [--policies sft oreo]

COMPARISON is an output folder of `stepcredit compare`: its SFT and OREO policies are searched with OREO's value models.
Rows go to OUT/results.json, seconds to OUT/timings.json; finished work is kept in OUT and not done again.
OUT/distinct.json has how many of the sampled responses are right, how many of their distinct texts (a random number for
each text would choose a right one as often), and the AUC of V within problems.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from stepcredit.engines.engine import SamplingParams, load_engine
from stepcredit.engines.packed import packed
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.evaluation.response_search import ResponseSearch
from stepcredit.evaluation.rows import result_row
from stepcredit.files import write_json
from stepcredit.hashes import content_of
from stepcredit.metrics.ranking import auc_within
from stepcredit.metrics.samples import powers_of_two
from stepcredit.models.loading import load_value_model, placed
from stepcredit.results.provenance import Stopwatch, versions
from stepcredit.results.row_files import add_rows
from stepcredit.searching.scorers import ValueScorer
from stepcredit.searching.selection import CHOOSERS
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.registry import load_task
from stepcredit.verdict import Verdict

BEAMS = (1, 3, 5, 7)
"""Widths of the beam by default."""


def run_of(comparison: Path, method: str, seed: int) -> Path:
    """The folder of a method's test run: the one at the rate that was chosen on validation."""
    if method == "sft":
        return comparison / "runs" / f"sft-seed{seed}"
    rows = json.loads((comparison / "results.json").read_text(encoding="utf-8"))
    policy = next(r["policy"] for r in rows if (r["method"], r["seed"]) == (method, seed))
    return comparison / Path(policy).parent


def search_of(args: argparse.Namespace, method: str, seed: int) -> ResponseSearch:
    task = load_task(args.task, args.data, args.prompt_style)
    value = run_of(args.comparison, args.value_method, seed) / "value"
    policy = run_of(args.comparison, method, seed) / "policy"
    engine = load_engine(str(policy), batch_size=512, dtype=args.dtype)
    models = {"policy": content_of(str(policy)), "value model": content_of(str(value))}
    asked = {name: getattr(args, name) for name in ("max_new_tokens", "prompt_style", "dtype")}
    return ResponseSearch(
        task,
        list(task.problems("test", args.limit, seed)),
        lambda: engine,
        ValueScorer(packed(placed(load_value_model(str(value))))),
        StepRule(task.step_delimiters, 64),
        args.out / "responses" / f"{method}-seed{seed}",
        {
            "task": args.task,
            "task_version": task.version,
            "method": method,
            "seed": seed,
            "prompts": args.limit,
            "source_versions": task.source_versions,
            **asked,
            **models,
        },
        args.pool,
    )


def searches(params: SamplingParams, pool: int, beams: Sequence[int]) -> list[SearchSpec]:
    chosen = [SearchSpec(name, width, params) for name in CHOOSERS for width in powers_of_two(pool)]
    return [SearchSpec("greedy", 1, params), *chosen, *(SearchSpec("beam", width, params) for width in beams)]


def distinct_texts(pool: Sequence[Episode], method: str, seed: int) -> dict[str, Any]:
    """How many responses of a pool are right, and how many of their distinct texts, as means over problems; and the AUC
    of V within problems, with its interval."""
    texts: dict[str, dict[str, bool]] = defaultdict(dict)
    for episode in pool:
        texts[episode.prompt_id][str(episode.completion).strip()] = episode.verdict is Verdict.RIGHT
    valued = [e for e in pool if "value" in e.metadata]
    values, right = [e.metadata["value"] for e in valued], [e.verdict is Verdict.RIGHT for e in valued]
    ranking = auc_within(values, right, [e.prompt_id for e in valued])
    return {
        "method": method,
        "seed": seed,
        "responses": len(pool),
        "problems": len(texts),
        "right": mean(episode.verdict is Verdict.RIGHT for episode in pool),
        "right_of_distinct": mean(mean(found.values()) for found in texts.values()),
        "distinct_right": mean(sum(found.values()) for found in texts.values()),
        "distinct_wrong": mean(len(found) - sum(found.values()) for found in texts.values()),
        "ranked": {"auc": ranking.estimate, "low": ranking.low, "high": ranking.high, "pairs": ranking.pairs},
    }


def with_earlier(file: Path, phases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds of each phase: the most of all runs, because a run that resumes finds finished work and takes none."""
    before = {row["phase"]: row["seconds"] for row in json.loads(file.read_text())} if file.exists() else {}
    return [{**row, "seconds": max(row["seconds"], before.get(row["phase"], 0.0))} for row in phases]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("comparison", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--policies", nargs="+", default=["sft", "oreo"])
    parser.add_argument("--value_method", default="oreo", help="method whose value function guides the search")
    parser.add_argument("--data", help="as of stepcredit evaluate")
    parser.add_argument("--prompt_style", help="likewise")
    parser.add_argument("--max_new_tokens", type=int, help="default: the task's")
    parser.add_argument("--dtype", help="likewise")
    parser.add_argument("--limit", type=int, default=200, help="test problems")
    parser.add_argument("--pool", type=int, default=64, help="largest number of samples")
    parser.add_argument("--beams", type=int, nargs="+", default=BEAMS, help="widths of the beam")
    parser.add_argument("--folder_of", help="only print the folder of this method's run, of the first seed")
    args, watch = parser.parse_args(), Stopwatch()
    if args.folder_of:
        print(run_of(args.comparison, args.folder_of, args.seeds[0]))
        return
    distinct = []
    for seed in args.seeds:
        for method in args.policies:
            search = search_of(args, method, seed)
            common: dict[str, Any] = {
                "task": args.task,
                "task_version": search.task.version,
                "split": "test",
                "seed": seed,
                "method": method,
                "value": args.value_method,
            }
            params = SamplingParams(args.max_new_tokens or search.task.max_new_tokens, stop=search.task.stop, seed=seed)
            specs = searches(params, args.pool, args.beams)
            rows = []
            for spec in specs:
                with watch.phase(f"seed {seed}, {method}, {spec.label}"):
                    episodes = search.episodes(spec)
                rows.append(result_row(episodes, search.problems, spec, common))
            add_rows(args.out / "results.json", rows)
            pool = search.episodes(SearchSpec("sample", args.pool, params))
            distinct.append(distinct_texts(pool, method, seed))
            for row in rows:
                print(seed, method, row.search, row.width, row.accuracy, row.tokens_generated, flush=True)
    write_json(args.out / "run.json", {"prompts": args.limit, "pool": args.pool, "beams": args.beams, **versions()})
    write_json(args.out / "distinct.json", distinct)
    write_json(args.out / "timings.json", with_earlier(args.out / "timings.json", watch.phases))


if __name__ == "__main__":
    main()
