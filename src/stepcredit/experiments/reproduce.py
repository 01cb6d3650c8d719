"""Reproduction of a recipe, from SFT to the table of results; finished steps are not repeated.

OUT/solutions                    worked solutions, if the recipe has an SFT step
OUT/seed0/sft                    fine-tuned policy
OUT/seed0/episodes               graded responses of that policy
OUT/seed0/METHOD                 policy and value model of each method
OUT/seed0/evaluate-METHOD        its results and responses; with several splits evaluate-METHOD-SPLIT
OUT/results.json, report.html    results of all evaluations
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from stepcredit.errors import InputError
from stepcredit.evaluation.evaluate import EvaluateConfig, evaluate
from stepcredit.experiments.recipe import Recipe, read_recipe, split_settings
from stepcredit.experiments.variants import legend, variant_of
from stepcredit.files import changed_settings, locked, read_manifest, write_json
from stepcredit.flags import flag
from stepcredit.progress import track
from stepcredit.report.page import write_report
from stepcredit.results.provenance import versions
from stepcredit.results.row_files import read_rows, write_rows
from stepcredit.results.schema import AccuracyRow
from stepcredit.rollouts.collect import SOLUTIONS, CollectConfig, collect
from stepcredit.settings import Limits, Settings, check_values
from stepcredit.training.methods import METHODS
from stepcredit.training.offline_config import THEIR_LIMITS
from stepcredit.training.train import TrainConfig, train


@dataclass
class ReproduceConfig(Settings):
    """Run a recipe: solutions, SFT, collection, every method, evaluation, table. Run the command again to resume. Needs
    the pretrained weights of the recipe and, at their size, a GPU."""

    recipe: str = field(metadata={"help": "Recipe file, for example recipes/qwen2.5-math-1.5b-gsm8k.yaml.",
                                  "positional": True})  # fmt: skip
    output_dir: Annotated[str, Limits(not_empty=True)] = field(
        metadata=flag("output_dir", "An interrupted run resumes in it.")
    )
    seeds: Annotated[list[int], Limits(at_least=0, at_most=2**32 - 1, not_empty=True)] = field(
        default_factory=lambda: [0], metadata={"help": "Seeds; each is a separate run."}
    )
    methods: list[str] = field(default_factory=list, metadata={"help": "Only these methods of the recipe."})
    set: list[str] = field(
        default_factory=list,
        metadata={"help": "Overrides, section.setting=value: model=FOLDER train.per_device_train_batch_size=2 …"},
    )
    dry_run: bool = field(default=False, metadata=flag("dry_run"))


RECIPE = "recipe.json"
"""What a folder was begun with."""


@dataclass(frozen=True)
class Step:
    """Step of a recipe: its name, the file that marks it as done, and the function that runs it."""

    name: str
    done: Path
    run: Callable[[], object]


def reproduce(config: ReproduceConfig) -> dict[str, Any]:
    """Runs the unfinished steps of a recipe; returns counts (see `ReproduceConfig`).

    Raises:
        InputError: an invalid recipe, a folder of another recipe, or an error of a step.
    """
    recipe = read_recipe(Path(config.recipe), config.set)
    missing = [name for name in config.methods if name not in recipe.methods]
    if missing:
        raise InputError(f"not in the recipe: {', '.join(missing)}; choose from {', '.join(recipe.methods)}", "methods")
    out = Path(config.output_dir)
    steps = steps_of(recipe, config)
    left = [step for step in steps if not step.done.exists()]
    if config.dry_run:
        return {"steps": len(steps), "done": len(steps) - len(left), "next": left[0].name if left else "nothing"}
    with locked(out, "stepcredit reproduce"):
        _same_recipe(out, recipe)
        try:
            for step in track(left, Path(config.recipe).stem, len(left), "steps"):
                step.run()
        except BaseException:
            if not any(step.done.exists() for step in steps):  # the folder is free for a mended recipe
                (out / RECIPE).unlink()
            raise
        gather(out)
    return {"steps": len(steps), "done before": len(steps) - len(left)}


def steps_of(recipe: Recipe, config: ReproduceConfig) -> list[Step]:
    """Returns all steps, in order."""
    out, steps = Path(config.output_dir), []
    solutions = None if recipe.solutions is None else Path(recipe.solutions.get("episodes", out / "solutions"))
    if recipe.solutions is not None and "episodes" not in recipe.solutions:
        steps.append(_collect_step(recipe, "solutions", out / "solutions", SOLUTIONS, 0, recipe.solutions))
    for seed in config.seeds:
        here, start = out / f"seed{seed}", recipe.model
        if solutions is not None:
            trust = {"trust_remote_code": True} if recipe.trust_remote_code else {}
            settings = split_settings({**recipe.sft, **trust})
            steps.append(_train_step("sft", here / "sft", recipe.model, solutions, seed, settings))
            start = str(here / "sft" / "policy")
        steps.append(_collect_step(recipe, f"episodes of seed {seed}", here / "episodes", start, seed, recipe.collect))
        steps += [_evaluate_step(recipe, "sft", here, start, seed, split) for split in recipe.splits]
        for method in config.methods or recipe.methods:
            settings = recipe.settings_of(method)
            steps.append(_train_step(method, here / method, start, here / "episodes", seed, settings))
            policy = str(here / method / "policy")
            steps += [_evaluate_step(recipe, method, here, policy, seed, split) for split in recipe.splits]
    return steps


def gather(out: Path) -> None:
    """Merges the rows of all evaluations into one `results.json` and writes the report."""
    files = sorted(out.glob("seed*/evaluate-*/results.json"))
    rows = [row for file in files for row in read_rows(file, AccuracyRow)]
    write_rows(out / "results.json", rows)
    methods = legend(row.method for row in rows)
    write_json(out / "run.json", {"command": "reproduce", "methods": methods, **versions()})
    write_report(out)


def _task_of(recipe: Recipe) -> dict[str, Any]:
    trust = {"trust_remote_code": True} if recipe.trust_remote_code else {}
    return {"task": recipe.task, "data": recipe.data, "prompt_style": recipe.prompt_style, **trust}


def _collect_step(recipe: Recipe, name: str, out: Path, policy: str, seed: int, settings: Mapping[str, Any]) -> Step:
    """Returns a collection step, done once its summary exists (an interrupted one has no summary)."""
    config = CollectConfig(**_task_of(recipe), model=policy, output_dir=str(out), seed=seed, **settings)
    done = out / "collected.json"
    return Step(name, done, lambda: write_json(done, collect(config)))


def _train_step(
    method: str, out: Path, model: str, episodes: Path, seed: int, settings: tuple[dict[str, Any], dict[str, Any]]
) -> Step:
    """Returns a training step; its settings are checked now, but the trainer config is created when it runs, because it
    depends on the device."""
    ours, theirs = settings
    kind = METHODS[method if method in METHODS else variant_of(method).method].config
    check_values(kind, theirs, THEIR_LIMITS)
    config = TrainConfig(model=model, episodes=[str(episodes)], **ours)

    def run() -> None:
        train(config, kind(output_dir=str(out), seed=seed, data_seed=seed, **theirs))

    return Step(f"{method} into {out}", out / "run.json", run)


def _evaluate_step(recipe: Recipe, method: str, here: Path, policy: str, seed: int, split: str) -> Step:
    out = here / (f"evaluate-{method}" if len(recipe.splits) == 1 else f"evaluate-{method}-{split}")
    settings = {**_task_of(recipe), **recipe.evaluate, "split": split}
    config = EvaluateConfig(**settings, model=policy, method=method, output_dir=str(out), seed=seed)
    return Step(f"evaluation of {method} on {split}", out / "run.json", lambda: evaluate(config))


def _same_recipe(out: Path, recipe: Recipe) -> None:
    """Checks that the folder belongs to this recipe, and records it; methods may be added."""
    new = json.loads(json.dumps(vars(recipe), default=dict))
    file = out / RECIPE
    if file.exists():
        old = read_manifest(file, ("recipe",))["recipe"]
        both = old["methods"].keys() & new["methods"].keys()
        fixed = [{k: v for k, v in r.items() if k not in ("methods", "data")} for r in (old, new)]
        changed = [*changed_settings(*fixed), *(m for m in both if old["methods"][m] != new["methods"][m])]
        if changed:
            raise InputError(f"was started with another {', '.join(changed)}; choose another --output_dir", str(out))
    write_json(file, {"recipe": new, **versions()})
