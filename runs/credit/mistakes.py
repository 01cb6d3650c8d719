"""Does the largest drop of V point at the first mistake that people marked, and what do marks add to outcomes?

BIG-Bench Mistake: 1,401 chains of thought of PaLM 2 on five tasks, as lists of steps, with the first wrong step marked.
Five folds, drawn within each task. On the other four, policy and V start from a pretrained model and learn

    oreo, dqo                   from outcomes: 1 if the answer equals the target, else 0
    oreo-process, dqo-process   from marks, as in DQO's process supervision: -1 at the first mistake

and on the fold itself V and β Σρ are measured at the marked steps, beside chance and beside position and length, which
are fitted to the marks of the other four folds. Rows per task and over all, intervals over traces. V is what is still
to come: under marks it rises to 0 once the mistake has been paid for, so there its rise, -ΔV, is measured as well. β Σρ
is the signal that has the reward in it; that from marks is compared with that from outcomes, trace by trace.

    python runs/credit/mistakes.py --data DIR [--model DIR] [--size cpu|gpu] [--minutes 8] [--output_dir DIR]

A piece is one fold by one method, all folds of a method before the next. The same command goes on where it stopped;
with `--summarise` it makes the results of what is there, without a model. `results.json`, `cases.json` (ten wrong
traces of OREO with V of every step, half of them found by ΔV), `cases-marks.json` (ten of OREO from marks, by β Σρ),
`settings.json`.

Cost with SmolLM2-135M, the last 6 layers:
    cpu   250 traces, 130,000 tokens, counted at 30 GFLOP/s of two cores, not run whole: 13 minutes once for the frozen
          layers, then 10 pieces of an hour (46 minutes of training at 0.4 GFLOP a token, 12 of scoring)
    gpu   1,400 traces, 632,000 tokens: 20 pieces of one to two minutes of an H200, four at a time beside other runs
"""

from __future__ import annotations

import gzip
import json
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from learning import (
    IMPLICIT,
    VALUE,
    Pieces,
    aligned,
    free,
    learn,
    marked,
    options_of,
    parsed,
    reference_of,
    settings_of,
    step_lengths,
    step_signals,
    write_cases,
)

from stepcredit import Episode
from stepcredit.evaluation.first_error import CHANCE, LENGTH, POSITION, Marked, first_error_rows, with_controls
from stepcredit.experiments.variants import with_mark
from stepcredit.files import write_json
from stepcredit.models.loading import load_tokenizer
from stepcredit.models.scoring import step_starts

FILE = "bigbench_mistake.jsonl.gz"
METHODS = ("oreo", "dqo", "oreo-process", "dqo-process")
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"methods": ["oreo", "oreo-process"], "limit": 250},
    "gpu": {"methods": list(METHODS), "micro_batch": 8, "batch": 16},
}
FOLDS = 5
RISE = "-ΔV"
"""Signal of V that learned from marks."""
OUTCOMES = "β Σρ from outcomes"
"""β Σρ of the same method, fold and seed, learned from outcomes: a signal beside those learned from marks."""


def main() -> None:
    """Makes the pieces, then the results."""
    parser = options_of(__doc__, SIZES, Path(__file__).parent / "mistakes")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)), help="which of the five")
    parser.add_argument("--limit", type=int, help="only so many traces, evenly over the tasks")
    options = parsed(parser, SIZES)
    traces = read(options.data / FILE, options.limit)
    pieces = Pieces(options, settings_of(options))
    kept: dict[tuple[str, int], list[list[dict[str, Any]]]] = defaultdict(list)
    for seed in options.seeds:
        for method in options.methods:
            for fold in options.folds:
                name = f"{method}-fold{fold}-seed{seed}" + (f"-of{options.limit}" if options.limit else "")
                rows = pieces.get(name, lambda m=method, f=fold, s=seed: piece(traces, m, f, options, s))
                if rows is not None:
                    kept[method, seed].append(rows)
    results, found = [], {}
    for (method, seed), folds in sorted(kept.items()):
        responses = [r for fold in folds for r in controlled(traces, fold, method)]
        if method.endswith("-process"):  # sorted after the method that learns from outcomes
            responses = beside_outcomes(responses, found.get((method.removesuffix("-process"), seed), []))
        found[method, seed] = responses
        results += per_task(responses, {"method": method, "seed": seed, "folds": len(folds)}, seed)
    write_json(options.output_dir / "results.json", results)
    write_json(options.output_dir / "settings.json", pieces.settings())
    if found:
        by_id = {t["id"]: t for t in traces}
        first = found.get(("oreo", options.seeds[0])) or next(iter(found.values()))
        write_cases(options.output_dir / "cases.json", first, lambda row: texts(by_id[row["problem"]]))
        if marks := found.get(("oreo-process", options.seeds[0])):
            file = options.output_dir / "cases-marks.json"
            write_cases(file, marks, lambda row: texts(by_id[row["problem"]]), signal=IMPLICIT)
    show(results)


def read(file: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The traces with an id, in the order of the file; without the one that has an empty step."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if all(step.strip() for step in row["steps"]):
            number = len(by_task[row["task"]])
            by_task[row["task"]].append({**row, "id": f"{row['task']}-{number}", "fold": number % FOLDS})
    kept = [row for task in by_task.values() for row in task[: limit and max(1, limit // len(by_task))]]
    for row in kept:
        if any("\n" in step for step in row["steps"]):
            raise ValueError(f"{row['id']}: a step has several lines")
    return kept


def episode_of(trace: dict[str, Any]) -> Episode:
    """A trace as an episode, a line per step; the outcome is whether the answer equals the target."""
    steps = (*(f"{step}\n" for step in trace["steps"][:-1]), trace["steps"][-1])
    return Episode(
        prompt=f"{trace['task'].replace('_', ' ').capitalize()}\nQuestion: {trace['prompt']}\nAnswer:\n",
        completion="".join(steps),
        steps=steps,
        reward=float(trace["answer"] == trace["target"]),
        prompt_id=trace["id"],
    )


def with_marks(trace: dict[str, Any]) -> Episode:
    """The same with process rewards: -1 at the first mistake, none at the end."""
    return with_mark(episode_of(trace), trace["mistake_index"], len(trace["steps"]))


def piece(
    traces: Sequence[dict[str, Any]], method: str, fold: int, options: Namespace, seed: int
) -> list[dict[str, Any]]:
    """Learns on the other folds; returns the traces of this fold with V after every step and β Σρ of every step."""
    train, test = [t for t in traces if t["fold"] != fold], [t for t in traces if t["fold"] == fold]
    make = with_marks if method.endswith("-process") else episode_of
    policy, value = learn(method.removesuffix("-process"), [make(t) for t in train], options, seed)
    trajectories = aligned([episode_of(t) for t in test], load_tokenizer(str(options.model)))
    for trace, trajectory in zip(test, trajectories, strict=True):
        if len(step_starts(trajectory)) != len(trace["steps"]) + 1:
            raise ValueError(f"{trace['id']}: its tokens have other steps")
    signals = step_signals(trajectories, policy, reference_of(options), value, options)
    rows = [
        {**marks_of(trace, step_lengths(t)), **signal}
        for trace, t, signal in zip(test, trajectories, signals, strict=True)
    ]
    del policy, value
    free(options)
    return rows


def marks_of(trace: dict[str, Any], lengths: Sequence[int]) -> dict[str, Any]:
    """What is known of a trace without a model. The kind of a step is its task."""
    steps = len(trace["steps"])
    return {
        "problem": trace["id"],
        "task": trace["task"],
        "right": trace["answer"] == trace["target"],
        "wrong": [int(k == trace["mistake_index"]) for k in range(steps)],
        "kinds": [trace["task"]] * steps,
        "lengths": list(lengths),
    }


def controlled(traces: Sequence[dict[str, Any]], fold: Sequence[dict[str, Any]], method: str) -> list[Marked]:
    """A fold's rows as marked responses; position and length are fitted to the other folds, each task by itself."""
    tested, found = {row["problem"] for row in fold}, []
    for task in sorted({row["task"] for row in fold}):
        others = [t for t in traces if t["task"] == task and t["id"] not in tested]
        characters = [[len(step) for step in t["steps"]] for t in others]
        rows = [marks_of(t, n) for t, n in zip(others, characters, strict=True)]
        train = [marked({**row, "value": [0] * (len(row["wrong"]) + 1)}) for row in rows]
        number = str(next(t["fold"] for t in traces if t["id"] in tested))
        test = [replace(marked(row), fit=number) for row in fold if row["task"] == task]
        if method.endswith("-process"):
            test = [replace(r, signals={**r.signals, RISE: np.negative(r.signals[VALUE]).tolist()}) for r in test]
        found += with_controls(train, test, (POSITION, LENGTH))
    return found


def beside_outcomes(responses: Sequence[Marked], from_outcomes: Sequence[Marked]) -> list[Marked]:
    """The responses with β Σρ of the run that learned from outcomes, if it has all of them, for paired differences."""
    others = {r.problem: r.signals[IMPLICIT] for r in from_outcomes}
    if any(r.problem not in others for r in responses):
        return list(responses)
    return [replace(r, signals={**r.signals, OUTCOMES: others[r.problem]}) for r in responses]


def per_task(responses: Sequence[Marked], common: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Rows for each task and over all."""
    rows = first_error_rows(responses, {**common, "task": "all"}, seed)
    for task in sorted({r.about["task"] for r in responses}):
        rows += first_error_rows([r for r in responses if r.about["task"] == task], {**common, "task": task}, seed)
    return rows


def texts(trace: dict[str, Any]) -> dict[str, Any]:
    """The texts of a trace, for `cases.json`."""
    return {k: trace[k] for k in ("task", "prompt", "steps", "answer", "target", "mistake_index")}


def show(results: Sequence[dict[str, Any]]) -> None:
    """Prints the hit rates."""
    for row in results:
        is_hit = row["metric"] in ("hit", "hit_minus") and row["of"] == "wrong responses"
        if is_hit and row["signal"] in (VALUE, RISE, IMPLICIT, CHANCE, POSITION):
            name = row["signal"] + (f" - {row['minus']}" if "minus" in row else "")
            print(f"{row['method']:<14} {row['task']:<26} {name:<24} "
                  f"{row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  {row['n']}")  # fmt: skip


if __name__ == "__main__":
    main()
