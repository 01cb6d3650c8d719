"""Compare: every method on the same episodes, from the same policy, with the same number of updates."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import set_seed

from stepcredit.engines.engine import SamplingParams, load_engine
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.errors import InputError, NotFiniteError
from stepcredit.evaluation.rows import Search, measure
from stepcredit.experiments.compare_credit import judge_credit
from stepcredit.experiments.grid import Cell, run_cells
from stepcredit.experiments.initial_policy import (
    Embedded,
    Scratch,
    demonstrated_policy,
    sampled_episodes,
    small_run,
    train_and_save,
)
from stepcredit.experiments.variants import BASE, VARIANTS, legend, variant_of, with_process_rewards
from stepcredit.files import write_json
from stepcredit.flags import flag
from stepcredit.metrics.paired import mcnemar, paired_difference
from stepcredit.models.loading import load_policy, load_tokenizer
from stepcredit.report.page import write_report
from stepcredit.results.provenance import versions
from stepcredit.tasks.registry import TASK_NAMES, load_task
from stepcredit.training.methods import METHODS
from stepcredit.training.train import curve
from stepcredit.verdict import Verdict


@dataclass
class CompareConfig:
    """Compare methods on the same episodes: the same start, the same number of updates, the same test.

    For each seed an embedded task makes its own policy (SFT on demonstrations) and samples it; with --model and
    --episodes all seeds share these. The learning rate of each method is the best of --learning_rates on the
    validation split, on a seed that is not among the compared ones. Finished cells are not run again: run the
    command once more to go on after a stop, or with more --methods or --seeds to extend the table.
    """

    task: str = field(metadata=flag("task", TASK_NAMES))
    output_dir: str = field(metadata=flag("output_dir", "A broken run goes on in it."))
    methods: list[str] = field(
        default_factory=lambda: ["rft", "dpo", "kto", "dro", "dqo", "oreo", "oreo-step", "oreo-response"],
        metadata={"help": f"What is compared, of {', '.join(VARIANTS)}; the start, sft, is always there."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "One policy each."})
    tuning_seed: int = field(default=100, metadata={"help": "The seed on which learning rates are chosen."})
    learning_rates: list[float] = field(
        default_factory=lambda: [2e-5, 1e-4, 5e-4], metadata={"help": "The rates that every method may choose from."}
    )
    steps: int = field(default=200, metadata={"help": "Optimizer steps of every method."})
    model: str | None = field(default=None, metadata=flag("model", "All seeds start from it."))
    episodes: str | None = field(default=None, metadata={"help": "The episodes that --model is trained on."})
    demonstrations: int = field(default=20_000, metadata={"help": "Embedded tasks: what SFT learns from."})
    sft_steps: int = field(default=150, metadata={"help": "Embedded tasks: optimizer steps of SFT."})
    train_prompts: int = field(default=800, metadata={"help": "Embedded tasks: prompts that are sampled."})
    num_generations: int = field(default=8, metadata=flag("num_generations", "Of embedded tasks."))
    validation_prompts: int = field(default=400, metadata={"help": "Problems on which a rate is chosen."})
    test_prompts: int = field(default=1000, metadata={"help": "Problems of the table."})
    searches: list[str] = field(
        default_factory=lambda: ["greedy", "sample"],
        metadata={"help": "How policies answer: greedy, sample; a rate is chosen by the mean over them."},
    )
    credit_prompts: int = field(
        default=0,
        metadata={
            "help": "Test problems on whose responses V and β Σρ are judged step by step, beside fresh continuations "
            "of every prefix; 0: not at all. For tasks that know which steps are wrong."
        },
    )
    continuations: int = field(default=64, metadata={"help": "Fresh continuations of every prefix."})
    settings: str = field(
        default="{}",
        metadata={"help": 'More settings by method, as JSON: {"oreo": {"beta": 0.03}}; "all" holds for every method.'},
    )
    jobs: int = field(default=1, metadata={"help": "Cells that run at a time, each in a process of its own."})
    threads: int = field(default=1, metadata={"help": "CPU threads of each; part of what makes a run repeatable."})
    dry_run: bool = field(default=False, metadata=flag("dry_run"))


class Grid:
    """The cells of a comparison: a start for each seed, a rate for each method, then all methods × seeds."""

    def __init__(self, config: CompareConfig) -> None:
        self.config = config
        self.out = Path(config.output_dir)
        self.settings = _settings(config)
        self.timings: list[dict[str, Any]] = []

    def run(self, phase: str, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """The results of cells; notes the seconds that they took, one after the other, in whichever run it was."""
        results = run_cells(cells, phase, self.config.jobs, self.config.threads)
        self.timings.append({"phase": phase, "seconds": round(sum(cell.seconds() for cell in cells), 1)})
        return results

    def start(self, seed: int) -> Cell:
        """Policy and episodes of a seed, with the policy's own score."""
        c = self.config
        given = {
            "task_name": c.task,
            "seed": seed,
            "policy": c.model,
            "episodes": c.episodes,
            "scratch": {"demonstrations": c.demonstrations, "steps": c.sft_steps},
            "sampled": {"prompts": c.train_prompts, "samples": c.num_generations},
            "test": self._test("test"),
        }
        return Cell(self.out / "cells" / f"{BASE}-seed{seed}", make_start, given)

    def tune(self, method: str, rate: float) -> Cell:
        """A method at a rate, on the seed for tuning, scored on the validation split."""
        return self._cell(method, self.config.tuning_seed, rate, "validation")

    def cell(self, method: str, seed: int, rate: float) -> Cell:
        """A method at the rate chosen for it, scored on the test split."""
        return self._cell(method, seed, rate, "test")

    def credit(self, seed: int, rates: dict[str, float]) -> Cell:
        """The credit of all methods of a seed."""
        c = self.config
        given = {
            "task_name": c.task,
            "seed": seed,
            "start": self.start(seed).folder.name,
            "trained": {m: self.cell(m, seed, rates[m]).folder.name for m in c.methods},
            "betas": {m: beta for m in c.methods if (beta := self._beta(m)) is not None},
            "prompts": c.credit_prompts,
            "samples": c.num_generations,
            "continuations": c.continuations,
        }
        mark = hashlib.sha256(json.dumps(given).encode()).hexdigest()[:8]  # other methods or rates, another cell
        return Cell(self.out / "cells" / f"credit-seed{seed}-{mark}", judge_credit, given)

    def _beta(self, method: str) -> float | None:
        """β of a method: as set, or its config's default; None where it has none."""
        config = METHODS[variant_of(method).method].config
        default = {f.name: f.default for f in fields(config)}.get("beta")
        beta = self._settings_of(method).get("beta", default)
        return None if beta is None else float(beta)

    def _settings_of(self, method: str) -> dict[str, Any]:
        parts = ("all", variant_of(method).method, method)
        return {k: v for part in dict.fromkeys(parts) for k, v in self.settings.get(part, {}).items()}

    def _cell(self, method: str, seed: int, rate: float, split: str) -> Cell:
        given = {
            "task_name": self.config.task,
            "start": self.start(seed).folder.name,
            "method": method,
            "seed": seed,
            "settings": {"max_steps": self.config.steps, **self._settings_of(method), "learning_rate": rate},
            "test": self._test(split),
        }
        return Cell(self.out / "cells" / f"{method}-seed{seed}-lr{rate:g}-{split}", train_and_test, given)

    def _test(self, split: str) -> dict[str, Any]:
        count = self.config.test_prompts if split == "test" else self.config.validation_prompts
        return {"split": split, "prompts": count, "searches": self.config.searches}


def compare(config: CompareConfig) -> dict[str, Any]:
    """Runs what is not finished, then writes the results (see `CompareConfig`); returns counts.

    Writes `results.json` (methods × seeds × searches), `grid.json` (the rates tried), `pairs.json` (every two methods
    on the same problems), `localisation.json` (with `credit_prompts`), `curves.json`, `run.json`, `timings.json` (the
    seconds of all cells of a phase, added up), `report.html`, and a folder a cell in `cells/`.

    Raises:
        InputError: settings that make no sense, a folder of another comparison, or cells that failed.
    """
    _check(config)
    grid = Grid(config)
    starts = [grid.start(s) for s in [*config.seeds, config.tuning_seed]]
    if config.dry_run:
        return _plan(grid, starts)
    begun = grid.run("policies and episodes", starts)
    rates = choose_rates(grid)
    cells = [grid.cell(m, s, rates[m]) for m in config.methods for s in config.seeds]
    results = [*begun[: len(config.seeds)], *grid.run("methods × seeds", cells)]
    write_json(grid.out / "results.json", [row for result in results for row in result["rows"]])
    write_json(grid.out / "pairs.json", pair_rows(config, results))
    write_json(grid.out / "curves.json", _curves(config, results))
    about = {k: v for k, v in vars(config).items() if k not in ("output_dir", "jobs", "dry_run", "settings")}
    chosen = {"settings": grid.settings, "chosen_learning_rates": rates, "methods": legend([BASE, *config.methods])}
    write_json(grid.out / "run.json", {"command": "compare", **about, **chosen, **versions()})
    if config.credit_prompts:
        judged = grid.run("credit", [grid.credit(seed, rates) for seed in config.seeds])
        write_json(grid.out / "localisation.json", [row for result in judged for row in result["rows"]])
    write_json(grid.out / "timings.json", grid.timings)
    write_report(grid.out)
    return {"methods": len(config.methods) + 1, "seeds": len(config.seeds), "cells": len(results)}


def _plan(grid: Grid, starts: Sequence[Cell]) -> dict[str, Any]:
    """What there is to run, and how much of it is known to be finished."""
    config = grid.config
    tuning = [grid.tune(m, r) for m in config.methods for r in config.learning_rates]
    return {
        "starts": len(starts),
        "tuning cells": len(tuning),
        "test cells": len(config.methods) * len(config.seeds),
        "starts and tuning cells finished": sum(cell.finished() for cell in (*starts, *tuning)),
    }


def choose_rates(grid: Grid) -> dict[str, float]:
    """The rate of each method with the best accuracy on the validation split, on average over the searches; of equals
    the smallest."""
    config = grid.config
    pairs = list(itertools.product(config.methods, sorted(config.learning_rates)))
    results = grid.run("learning rates", [grid.tune(m, r) for m, r in pairs])
    found = {pair: result["rows"] for pair, result in zip(pairs, results, strict=True)}
    scores = {
        pair: fmean(-1.0 if "stopped" in row else row["accuracy"] for row in rows) for pair, rows in found.items()
    }
    best = {m: max(sorted(config.learning_rates), key=lambda rate: scores[m, rate]) for m in config.methods}
    for method, rate in best.items():
        stopped = [row["stopped"] for row in found[method, rate] if "stopped" in row]
        if stopped:
            raise InputError(f"{method} learns at none of these rates; at {rate:g} {stopped[0]}", "learning_rates")
    tried = [{**row, "chosen": best[m] == rate} for (m, rate), rows in found.items() for row in rows]
    write_json(grid.out / "grid.json", tried)
    return best


def pair_rows(config: CompareConfig, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every two methods on the same problems of the same seeds: the difference with its paired bootstrap interval
    over problems, and McNemar's exact test on the responses that only one of them got right."""
    right: dict[tuple[str, str], list[int]] = {}
    problems: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for row in result["rows"]:
            key = (row["search"], row["method"])
            right.setdefault(key, []).extend(result["right"][row["search"]])
            names = [f"{row['seed']}/{k}" for k in range(row["n"])]
            problems.setdefault(key, []).extend(names)
    rows = []
    for search in config.searches:
        for a, b in itertools.combinations([BASE, *config.methods], 2):
            x, y = right[search, a], right[search, b]
            difference, test = paired_difference(x, y, problems[search, a]), mcnemar(x, y)
            rows.append(
                {
                    "task": config.task,
                    "split": "test",
                    "search": search,
                    "method_a": a,
                    "method_b": b,
                    "difference": round(difference.estimate, 6),
                    "low": round(difference.low, 6),
                    "high": round(difference.high, 6),
                    "only_a": test.only_a,
                    "only_b": test.only_b,
                    "p": test.p,
                    "n": len(x),
                    "seeds": len(config.seeds),
                }
            )
    return rows


def _curves(config: CompareConfig, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The training curves of the first seed."""
    return {r["rows"][0]["method"]: r["curve"] for r in results if r["rows"][0]["seed"] == config.seeds[0]}


# ---- the work of a cell --------------------------------------------------------------------------------


def make_start(
    folder: Path,
    task_name: str,
    seed: int,
    policy: str | None,
    episodes: str | None,
    scratch: dict[str, int],
    sampled: dict[str, int],
    test: dict[str, Any],
) -> dict[str, Any]:
    """The policy of a seed in `policy/`, the episodes in `episodes/`, and how the policy scores by itself."""
    shutil.rmtree(folder, ignore_errors=True)
    set_seed(seed)
    task = load_task(task_name)
    if policy is not None and episodes is not None:
        tokenizer = load_tokenizer(policy)
        model = load_policy(policy, tokenizer=tokenizer)
        model.save_pretrained(folder / "policy", safe_serialization=True)
        tokenizer.save_pretrained(folder / "policy")
        append_episodes(folder / "episodes", load_episodes(episodes))
        log: list[dict[str, Any]] = []
    else:
        assert isinstance(task, Embedded)
        trainer = demonstrated_policy(task, folder, seed, Scratch(**scratch))
        model, tokenizer, log = trainer.model.policy, task.tokenizer(), curve(trainer)
        drawn = sampled_episodes(task, model, tokenizer, "train", **sampled, seed=seed + 1)
        append_episodes(folder / "episodes", drawn)
    return {**_tested(task_name, BASE, seed, model, tokenizer, folder, test), "curve": log}


def train_and_test(
    folder: Path, task_name: str, start: str, method: str, seed: int, settings: dict[str, Any], test: dict[str, Any]
) -> dict[str, Any]:
    """A method trained from the start of a seed, and how its policy scores. Tuning keeps no models, and a rate at which
    training stops solves nothing."""
    set_seed(seed)
    variant, task, begin = variant_of(method), load_task(task_name), folder.parent / start
    episodes = list(load_episodes(begin / "episodes"))
    if variant.process_rewards:
        episodes = with_process_rewards(task, episodes)
    given = {"step_delimiters": list(task.step_delimiters), **settings, **variant.given}
    tokenizer = load_tokenizer(str(begin / "policy"))
    args = METHODS[variant.method].config(**small_run(folder, seed, **given))
    try:
        trainer = train_and_save(str(begin / "policy"), args, episodes, tokenizer)
    except NotFiniteError as error:
        if test["split"] == "test":
            raise
        return _stopped(task_name, method, seed, args.learning_rate, str(error).split(";")[0], test)
    budget = {
        "learning_rate": args.learning_rate,
        "steps": trainer.state.global_step,
        "epochs": round(float(trainer.state.epoch), 2),
        "tokens_trained": round(sum(row.get("num_tokens", 0) for row in trainer.state.log_history)),
        "episodes": len(trainer.train_dataset.trajectories),
    }
    has_value = METHODS[variant.method].needs_value
    found = _tested(task_name, method, seed, trainer.model.policy, tokenizer, folder, test)
    about = {**budget, "value": f"cells/{folder.name}/value" if has_value else None}
    if test["split"] != "test":
        for part in ("policy", "value"):
            shutil.rmtree(folder / part, ignore_errors=True)
    return {**found, "rows": [{**row, **about} for row in found["rows"]], "curve": curve(trainer)}


def _stopped(
    task_name: str, method: str, seed: int, learning_rate: float, why: str, test: dict[str, Any]
) -> dict[str, Any]:
    """A row for each search of a rate at which training stopped."""
    common = {"task": task_name, "split": test["split"], "seed": seed, "method": method}
    row = {**common, "learning_rate": learning_rate, "accuracy": 0.0, "stopped": why}
    return {"rows": [{**row, "search": name} for name in test["searches"]], "right": {}, "curve": []}


def _tested(
    task_name: str, method: str, seed: int, policy: Any, tokenizer: Any, folder: Path, test: dict[str, Any]
) -> dict[str, Any]:
    """A row for each search, and for each which problems were solved."""
    task = load_task(task_name)
    problems = list(task.problems(test["split"], test["prompts"], seed))
    engine = load_engine(policy, tokenizer=tokenizer, batch_size=256)
    common = {
        "task": task.name,
        "task_version": task.version,
        "split": test["split"],
        "seed": seed,
        "method": method,
        "policy": f"cells/{folder.name}/policy",
        "value": None,
    }
    rows, right = [], {}
    for name in test["searches"]:
        params = SamplingParams(task.max_new_tokens, temperature=0.0 if name == "greedy" else 1.0, seed=seed)
        row, episodes = measure(task, problems, engine, Search(name, 1, params), common)
        rows.append(row)
        right[name] = [int(e.verdict is Verdict.RIGHT) for e in episodes]
    return {"rows": rows, "right": right}


# ---- settings ------------------------------------------------------------------------------------------


def _settings(config: CompareConfig) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(config.settings)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}", "settings") from error
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise InputError('settings by method, for example {"oreo": {"beta": 0.03}}', "settings")
    known = {"all", *METHODS, *config.methods}
    for name in found:
        if name not in known:
            raise InputError(f"no method {name!r}", "settings")
    return found


def _check(config: CompareConfig) -> None:
    task = load_task(config.task)
    for method in config.methods:
        variant_of(method)
    for name in config.searches:
        if name not in ("greedy", "sample"):
            raise InputError(f"{name!r} is neither greedy nor sample", "searches")
    for name in ("methods", "seeds", "learning_rates", "searches"):
        values = getattr(config, name)
        if not values or len(set(values)) != len(values):
            raise InputError("needs at least one, each once", name)
    if config.tuning_seed in config.seeds:
        raise InputError(f"{config.tuning_seed} is among the compared seeds", "tuning_seed")
    if (config.model is None) != (config.episodes is None):
        raise InputError("--model and --episodes go together", "model")
    if config.model is None and not isinstance(task, Embedded):
        raise InputError(f"{config.task} brings no policy of its own; give --model and --episodes", "model")
    for name in ("steps", "jobs", "threads"):
        if getattr(config, name) < 1:
            raise InputError(f"{getattr(config, name)} must be 1 or more", name)
