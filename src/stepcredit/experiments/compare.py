"""Comparison of methods with the same episodes, initial policy and number of updates."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from stepcredit.engines.engine import DTYPES
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.experiments.compare_credit import judge_credit
from stepcredit.experiments.compare_runs import INITIAL, make_initial, train_and_test, transfer_name
from stepcredit.experiments.grid import Run, run_grid
from stepcredit.experiments.initial_policy import Embedded
from stepcredit.experiments.leakage import Learned
from stepcredit.experiments.method_settings import read_settings, settings_of
from stepcredit.experiments.pairs import add_problem_errors, pair_rows
from stepcredit.experiments.variants import VARIANTS, legend, variant_of
from stepcredit.files import locked, write_json
from stepcredit.flags import flag
from stepcredit.hashes import content_of
from stepcredit.report.page import write_report
from stepcredit.results.provenance import versions
from stepcredit.results.row_files import parsed, write_rows
from stepcredit.results.schema import AccuracyRow, SignalRow
from stepcredit.settings import Limits, Settings
from stepcredit.tasks.registry import TASK_NAMES, load_task
from stepcredit.tasks.task import Task
from stepcredit.training.methods import METHODS


@dataclass
class CompareConfig(Settings):
    """Compare methods with the same episodes, initial policy, number of updates and test problems.

    For each seed, an embedded task trains its own initial policy (SFT on demonstrations) and samples it. With --model
    all seeds share the initial policy, and each samples it; with --episodes too, they share these. The learning rate
    of each method is the best of --learning_rates on the validation split, on a separate seed; a single one is taken
    as it is. Finished runs are reused: run the command again to resume, or with more --methods or --seeds to extend
    the table.
    """

    task: Annotated[str, Limits(not_empty=True)] = field(metadata=flag("task", TASK_NAMES))
    output_dir: Annotated[str, Limits(not_empty=True)] = field(
        metadata=flag("output_dir", "An interrupted run resumes in it.")
    )
    methods: Annotated[list[str], Limits(not_empty=True)] = field(
        default_factory=lambda: ["rft", "dpo", "kto", "dro", "dqo", "oreo", "oreo-step", "oreo-response"],
        metadata={"help": f"Methods to compare, of {', '.join(VARIANTS)}; the initial policy, sft, is always there."},
    )
    seeds: Annotated[list[int], Limits(at_least=0, at_most=2**32 - 1, not_empty=True)] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "Seeds; without --model, each has an initial policy of its own."},
    )
    tuning_seed: Annotated[int, Limits(at_least=0, at_most=2**32 - 1)] = field(
        default=100, metadata={"help": "Seed on which learning rates are tuned."}
    )
    learning_rates: Annotated[list[float], Limits(above=0, not_empty=True)] = field(
        default_factory=lambda: [2e-5, 1e-4, 5e-4], metadata={"help": "Learning rates tried for every method."}
    )
    steps: Annotated[int, Limits(at_least=1)] = field(default=200, metadata={"help": "Optimizer steps per method."})
    data: str | None = field(default=None, metadata=flag("data", default="the hub, for gsm8k and math"))
    prompt_style: str | None = field(default=None, metadata=flag("prompt_style", default="the task's"))
    model: str | None = field(default=None, metadata=flag("model", "The initial policy of all seeds."))
    episodes: str | None = field(
        default=None, metadata={"help": "Episodes to train --model on; default: each seed samples --model."}
    )
    demonstrations: Annotated[int, Limits(at_least=1)] = field(
        default=20_000, metadata={"help": "Embedded tasks: number of demonstrations for SFT."}
    )
    sft_steps: Annotated[int, Limits(at_least=1)] = field(
        default=150, metadata={"help": "Embedded tasks: optimizer steps of SFT."}
    )
    train_prompts: Annotated[int, Limits(at_least=1)] = field(
        default=800, metadata={"help": "Number of training prompts that are sampled."}
    )
    num_generations: Annotated[int, Limits(at_least=1)] = field(
        default=8, metadata=flag("num_generations", "To the training prompts.")
    )
    max_new_tokens: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata=flag("max_new_tokens", default="the task's")
    )
    batch_size: Annotated[int, Limits(at_least=1)] = field(default=256, metadata=flag("batch_size"))
    dtype: str | None = field(default=None, metadata=flag("dtype", default="as saved", choices=list(DTYPES)))
    validation_prompts: Annotated[int, Limits(at_least=1)] = field(
        default=400, metadata={"help": "Number of validation problems for tuning learning rates."}
    )
    test_prompts: Annotated[int, Limits(at_least=1)] = field(
        default=1000, metadata={"help": "Number of test problems."}
    )
    transfer: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files of further test problems, read as --data is; the rows of each are a split named after it, "
            "with at most --test_prompts problems, by the first of --searches."
        },
    )
    searches: Annotated[list[str], Limits(not_empty=True)] = field(
        default_factory=lambda: ["greedy", "sample"],
        metadata={"help": "Decoding of the evaluations: greedy, sample; learning rates are tuned on the mean."},
    )
    credit_prompts: Annotated[int, Limits(at_least=0)] = field(
        default=0,
        metadata={
            "help": "Number of test problems for evaluating the step credit of V and β Σρ, with fresh continuations of "
            "every prefix; 0 turns it off. For tasks that label wrong steps."
        },
    )
    continuations: Annotated[int, Limits(at_least=2)] = field(
        default=64, metadata={"help": "Fresh continuations per prefix."}
    )
    settings: str = field(default="{}", metadata=flag("settings"))
    jobs: Annotated[int, Limits(at_least=1)] = field(
        default=1, metadata={"help": "Number of parallel runs, each in its own process."}
    )
    threads: Annotated[int, Limits(at_least=1)] = field(
        default=1, metadata={"help": "CPU threads per run; results are reproducible for a fixed number."}
    )
    dry_run: bool = field(default=False, metadata=flag("dry_run"))


class Comparison:
    """Runs of a comparison: an initial policy per seed, a learning rate per method, then all methods × seeds."""

    def __init__(self, config: CompareConfig) -> None:
        self.config = config
        self.out = Path(config.output_dir)
        self.settings = read_settings(config.settings, config.methods)
        self.timings: list[dict[str, Any]] = []
        self.inputs = {"model": content_of(config.model), "episodes": content_of(config.episodes)}
        self.task = {"name": config.task, "prompt_style": config.prompt_style}
        self.sampling = {
            "max_new_tokens": config.max_new_tokens,
            "batch_size": config.batch_size,
            "reload": config.model is not None or config.dtype is not None,
            "dtype": config.dtype,
        }

    def run(self, phase: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Returns the results of runs, and records their total seconds, reused runs included."""
        results = run_grid(runs, phase, self.config.jobs, self.config.threads)
        self.timings.append({"phase": phase, "seconds": round(sum(run.seconds() for run in runs), 1)})
        return results

    def check_splits(self, runs: Sequence[Run]) -> None:
        """Checks that those of the runs that will be reused were tested on the sets of problems of this comparison.

        Raises:
            InputError: a run was tested on others.
        """
        splits = ["test", *map(transfer_name, self.config.transfer)]
        for run in runs:
            found = list(dict.fromkeys(row["split"] for row in run.result()["rows"])) if run.finished() else splits
            if set(found) != set(splits):
                raise InputError(f"was tested on {', '.join(found)}, not on {', '.join(splits)}; give the --transfer "
                                 "of then, or another --output_dir", str(run.folder))  # fmt: skip

    def all_seeds(self) -> list[int]:
        """Returns the seeds, and that of tuning where there are rates to choose from."""
        c = self.config
        return [*c.seeds] if len(c.learning_rates) == 1 else [*c.seeds, c.tuning_seed]

    def initial(self, seed: int) -> Run:
        """Returns the run that makes and evaluates the initial policy of a seed, with its episodes."""
        c = self.config
        settings = {
            "task": self.task,
            "seed": seed,
            "scratch": {"demonstrations": c.demonstrations, "steps": c.sft_steps},
            "sampled": {"prompts": c.train_prompts, "samples": c.num_generations},
            "sampling": self.sampling,
            "test": self._test("test"),
        }
        more = {"model": c.model, "episodes": c.episodes, "transfer": c.transfer}
        return self._run(f"{INITIAL}-seed{seed}", make_initial, settings, more)

    def tuning(self, method: str, rate: float) -> Run:
        """Returns the run of a method at a learning rate, on the tuning seed and the validation split."""
        return self._method(method, self.config.tuning_seed, rate, "validation")

    def final(self, method: str, seed: int, rate: float) -> Run:
        """Returns the run of a method at its tuned learning rate, on the test split."""
        return self._method(method, seed, rate, "test")

    def credit(self, seed: int, rates: dict[str, float]) -> Run:
        """Returns the run that evaluates the step credit of all methods of a seed."""
        c = self.config
        settings = {
            "task": self.task,
            "seed": seed,
            "initial": self.initial(seed).folder.name,
            "trained": {m: self.final(m, seed, rates[m]).folder.name for m in c.methods},
            "betas": {m: beta for m in c.methods if (beta := self._beta(m)) is not None},
            "prompts": c.credit_prompts,
            "samples": c.num_generations,
            "continuations": c.continuations,
            "sampling": self.sampling,
        }
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]  # other methods or rates: another run
        return self._run(f"credit-seed{seed}-{digest}", judge_credit, settings)

    def _method(self, method: str, seed: int, rate: float, split: str) -> Run:
        device = {} if self.config.model is None else {"use_cpu": False}
        steps = {"max_steps": self.config.steps}
        settings = {
            "task": self.task,
            "initial": self.initial(seed).folder.name,
            "method": method,
            "seed": seed,
            "settings": {**steps, **device, **self._settings_of(method), "learning_rate": rate},
            "sampling": self.sampling,
            "test": self._test(split),
        }
        more = {"transfer": self.config.transfer if split == "test" else []}
        return self._run(f"{method}-seed{seed}-lr{rate:g}-{split}", train_and_test, settings, more)

    def _run(self, name: str, work: Any, settings: dict[str, Any], paths: dict[str, Any] | None = None) -> Run:
        data = {"data": self.config.data, **(paths or {})}
        return Run(self.out / "runs" / name, work, settings, data, self.inputs)

    def _beta(self, method: str) -> float | None:
        """Returns β of a method: as set, or the default of its config; None if it has no β."""
        row = METHODS[variant_of(method).method]
        config = row.config
        default = {f.name: f.default for f in fields(config)}.get("beta")
        beta = self._settings_of(method).get("beta", default)
        return None if beta is None or not row.needs_reference else float(beta)

    def _settings_of(self, method: str) -> dict[str, Any]:
        return settings_of(self.settings, method)

    def _test(self, split: str) -> dict[str, Any]:
        count = self.config.test_prompts if split == "test" else self.config.validation_prompts
        return {"split": split, "prompts": count, "searches": self.config.searches}


def compare(config: CompareConfig) -> dict[str, Any]:
    """Runs what is missing of a comparison and writes the results (see `CompareConfig`); returns counts.

    Writes `results.json` (methods × seeds × searches), `grid.json` (the learning rates tried), `pairs.json` (pairs of
    methods on the same problems), `localisation.json` (with `credit_prompts`), `curves.json`, `run.json`,
    `timings.json` (total seconds of the runs per phase), `report.html`, and a folder per run in `runs/`.

    Raises:
        InputError: inconsistent settings, a folder of another comparison, or failed runs.
    """
    _check(config)
    comparison = Comparison(config)
    out, initial = comparison.out, [comparison.initial(s) for s in comparison.all_seeds()]
    if config.dry_run:
        return _plan(comparison, initial)
    with locked(out, "stepcredit compare"):
        return _compare(comparison, initial)


def _compare(comparison: Comparison, initial: Sequence[Run]) -> dict[str, Any]:
    config, out = comparison.config, comparison.out
    comparison.check_splits(initial)
    first = comparison.run("policies and episodes", initial)
    rates = choose_rates(comparison)
    trained = [comparison.final(m, s, rates[m]) for m in config.methods for s in config.seeds]
    comparison.check_splits(trained)
    results = [*first[: len(config.seeds)], *comparison.run("methods × seeds", trained)]
    add_problem_errors(results)
    write_rows(out / "results.json", rows_of(results, AccuracyRow))
    write_rows(out / "pairs.json", pair_rows(config.task, results))
    curves = {r["rows"][0]["method"]: r["curve"] for r in results if r["rows"][0]["seed"] == config.seeds[0]}
    write_json(out / "curves.json", curves)
    about = {k: v for k, v in vars(config).items() if k not in ("output_dir", "jobs", "dry_run", "settings")}
    chosen = {
        "settings": comparison.settings,
        "chosen_learning_rates": rates,
        "methods": legend([INITIAL, *config.methods]),
    }
    write_json(out / "run.json", {"command": "compare", **about, **chosen, **versions()})
    if config.credit_prompts:
        judged = comparison.run("credit", [comparison.credit(seed, rates) for seed in config.seeds])
        write_rows(out / "localisation.json", rows_of(judged, SignalRow))
    write_json(out / "timings.json", comparison.timings)
    write_report(out)
    return {"methods": len(config.methods) + 1, "seeds": len(config.seeds), "runs": len(results)}


def _plan(comparison: Comparison, initial: Sequence[Run]) -> dict[str, Any]:
    """Returns the number of runs per phase, and of finished ones."""
    config = comparison.config
    rates = config.learning_rates if len(config.learning_rates) > 1 else []
    tuning = [comparison.tuning(m, r) for m in config.methods for r in rates]
    return {
        "initial policies": len(initial),
        "tuning runs": len(tuning),
        "test runs": len(config.methods) * len(config.seeds),
        "initial policies and tuning runs finished": sum(run.finished() for run in (*initial, *tuning)),
    }


def choose_rates(comparison: Comparison) -> dict[str, float]:
    """Returns the learning rate of each method with the highest mean validation accuracy over the searches; ties go to
    the smallest. Nothing is tried where there is only one."""
    config = comparison.config
    if len(config.learning_rates) == 1:
        write_rows(comparison.out / "grid.json", [])
        return dict.fromkeys(config.methods, config.learning_rates[0])
    pairs = list(itertools.product(config.methods, sorted(config.learning_rates)))
    results = comparison.run("learning rates", [comparison.tuning(m, r) for m, r in pairs])
    tried = {pair: result["rows"] for pair, result in zip(pairs, results, strict=True)}
    scores = {
        pair: fmean(-1.0 if "stopped" in row else row["accuracy"] for row in rows) for pair, rows in tried.items()
    }
    best = {m: max(sorted(config.learning_rates), key=lambda rate: scores[m, rate]) for m in config.methods}
    for method, rate in best.items():
        stopped = [row["stopped"] for row in tried[method, rate] if "stopped" in row]
        if stopped:
            raise InputError(f"{method} learns at none of these rates; at {rate:g} {stopped[0]}; try smaller ones",
                             "learning_rates")  # fmt: skip
    grid = [{**row, "chosen": best[m] == rate} for (m, rate), rows in tried.items() for row in rows]
    write_rows(comparison.out / "grid.json", rows_of([{"rows": grid}], AccuracyRow))
    return best


def rows_of(results: Sequence[dict[str, Any]], kind: type[Any]) -> list[Any]:
    """Returns the rows in the results of runs."""
    return [parsed(kind, row, "run") for result in results for row in result["rows"]]


def _check(config: CompareConfig) -> None:
    task = load_task(config.task, config.data, config.prompt_style)
    if any(variant_of(method).process_rewards for method in config.methods):
        (problem,) = task.problems("test", 1, 0)
        if task.wrong_steps(problem, "") is None:
            raise InputError(f"{task.name} does not know which steps are wrong: no process rewards", "methods")
    if config.model is None and config.episodes is not None:
        raise InputError("--episodes needs the policy that they train; pass --model", "model")
    if config.episodes is not None:
        load_episodes(config.episodes)
    for name in config.searches:
        if name not in ("greedy", "sample"):
            raise InputError(f"unknown search {name!r}; choose from greedy, sample", "searches")
    for name in ("methods", "seeds", "learning_rates", "searches"):
        values = getattr(config, name)
        if not values or len(set(values)) != len(values):
            raise InputError("must have at least one value, and no duplicates", name)
    if config.tuning_seed in config.seeds:
        raise InputError(f"{config.tuning_seed} is one of the compared seeds; choose another", "tuning_seed")
    if config.model is None and not isinstance(task, Embedded):
        raise InputError(f"{config.task} has no demonstrations for an initial policy; pass --model", "model")
    names = [transfer_name(file) for file in config.transfer]
    for file, name in zip(config.transfer, names, strict=True):
        if name == "test" or names.count(name) > 1:
            raise InputError(f"its rows are the split {name}, which there is already; rename this file of --transfer",
                             file)  # fmt: skip
    _check_apart(config, task)


def _check_apart(config: CompareConfig, task: Task) -> None:
    """Checks that no test problem is trained on or chosen by, and that no validation problem is trained on."""
    learned = Learned(task)
    if config.episodes is None:
        learned.add(task.problems("train", config.train_prompts))
    else:
        learned.add(load_episodes(config.episodes))
    given = "train_prompts" if config.episodes is None else "episodes"
    counts = {"validation": config.validation_prompts, "test": config.test_prompts}
    sets = [(split, task.problems(split, count)) for split, count in counts.items()]
    for file in config.transfer:
        further = load_task(config.task, file, config.prompt_style).problems("test")
        sets.append((transfer_name(file), further[: config.test_prompts]))
    for split, problems in sets:
        if both := learned.among(problems):
            among = "these prompts" if split == "validation" else "these prompts, or those of validation"
            raise InputError(f"{both} problems of {split} are among {among}; take fewer, or others", given)
        if split == "validation":
            learned.add(problems)
