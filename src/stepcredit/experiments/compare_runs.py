"""Runs of a comparison: the initial policy of a seed with its episodes, and training of a method from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import set_seed

from stepcredit.engines.engine import SamplingParams, load_engine
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.errors import NotFiniteError
from stepcredit.evaluation.rows import measure
from stepcredit.experiments.initial_policy import (
    Embedded,
    Scratch,
    demonstrated_policy,
    sampled_episodes,
    small_run,
    train_and_save,
)
from stepcredit.experiments.variants import variant_of, with_process_rewards
from stepcredit.files import folder_written_whole
from stepcredit.models.adapters import lora_config
from stepcredit.models.checks import check_ids
from stepcredit.models.loading import load_policy, load_tokenizer
from stepcredit.results.schema import AccuracyRow, written
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.registry import load_task
from stepcredit.training.methods import METHODS
from stepcredit.training.train import curve
from stepcredit.verdict import Verdict

INITIAL = "sft"
"""Name of the initial policy in the rows."""
LORA: dict[str, Any] = {"rank": 16, "alpha": 32, "targets": ["all-linear"]}
"""Settings of the adapters of variants that have some."""


def make_initial(
    folder: Path,
    task_name: str,
    seed: int,
    model: str | None,
    episodes: str | None,
    scratch: dict[str, int],
    sampled: dict[str, int],
    test: dict[str, Any],
) -> dict[str, Any]:
    """Writes the initial policy of a seed to `policy/` and its episodes to `episodes/`; returns its evaluation."""
    shutil.rmtree(folder, ignore_errors=True)
    set_seed(seed)
    task = load_task(task_name)
    if model is not None and episodes is not None:
        tokenizer = load_tokenizer(model)
        policy = load_policy(model, tokenizer=tokenizer)
        read = list(load_episodes(episodes))
        check_ids((e.tokens.ids for e in read if e.tokens is not None), policy, episodes)
        with folder_written_whole(folder / "policy") as part:
            policy.save_pretrained(part, safe_serialization=True)
            tokenizer.save_pretrained(part)
        append_episodes(folder / "episodes", read)
        log: list[dict[str, Any]] = []
    else:
        assert isinstance(task, Embedded)
        trainer = demonstrated_policy(task, folder, seed, Scratch(**scratch))
        policy, tokenizer, log = trainer.model.policy, task.tokenizer(), curve(trainer)
        drawn = sampled_episodes(task, policy, tokenizer, "train", **sampled, seed=seed + 1)
        append_episodes(folder / "episodes", drawn)
    return {**_tested(task_name, INITIAL, seed, policy, tokenizer, folder, test), "curve": log}


def train_and_test(
    folder: Path, task_name: str, initial: str, method: str, seed: int, settings: dict[str, Any], test: dict[str, Any]
) -> dict[str, Any]:
    """Trains a method from the initial policy of a seed; returns the evaluation of its policy.

    Tuning runs delete their models. A learning rate at which training diverges gets accuracy 0.
    """
    set_seed(seed)
    variant, task, initial_folder = variant_of(method), load_task(task_name), folder.parent / initial
    episodes = list(load_episodes(initial_folder / "episodes"))
    if variant.process_rewards:
        episodes = with_process_rewards(task, episodes)
    method_settings = {
        "step_delimiters": list(task.step_delimiters),
        "activation_cache": str(initial_folder / "activations"),
        **settings,
        **variant.settings,
    }
    tokenizer = load_tokenizer(str(initial_folder / "policy"))
    args = METHODS[variant.method].config(**small_run(folder, seed, **method_settings))
    peft_configs = {name: lora_config(**LORA, task_type=kind) for name, kind in variant.adapters.items()}
    try:
        trainer = train_and_save(str(initial_folder / "policy"), args, episodes, tokenizer, **peft_configs)
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
    tested = _tested(task_name, method, seed, trainer.model.policy, tokenizer, folder, test)
    about = {**budget, "value": f"runs/{folder.name}/value" if has_value else None}
    if test["split"] != "test":
        for part in ("policy", "value"):
            shutil.rmtree(folder / part, ignore_errors=True)
    return {**tested, "rows": [{**row, **about} for row in tested["rows"]], "curve": curve(trainer)}


def _stopped(
    task_name: str, method: str, seed: int, learning_rate: float, reason: str, test: dict[str, Any]
) -> dict[str, Any]:
    """Returns one row per search for a learning rate at which training stopped early."""
    about: dict[str, Any] = {"task": task_name, "split": test["split"], "seed": seed, "method": method}
    numbers: dict[str, Any] = {"n": test["prompts"], "accuracy": 0.0, "learning_rate": learning_rate, "stopped": reason}
    rows = [AccuracyRow(**about, search=name, **numbers) for name in test["searches"]]
    return {"rows": [written(row) for row in rows], "right": {}, "curve": []}


def _tested(
    task_name: str, method: str, seed: int, policy: Any, tokenizer: Any, folder: Path, test: dict[str, Any]
) -> dict[str, Any]:
    """Evaluates a policy; returns one row per search, and which problems were solved."""
    task = load_task(task_name)
    problems = list(task.problems(test["split"], test["prompts"], seed))
    engine = load_engine(policy, tokenizer=tokenizer, batch_size=256)
    common = {
        "task": task.name,
        "task_version": task.version,
        "split": test["split"],
        "seed": seed,
        "method": method,
        "policy": f"runs/{folder.name}/policy",
        "value": None,
    }
    rows, right = [], {}
    for name in test["searches"]:
        params = SamplingParams(task.max_new_tokens, temperature=0.0 if name == "greedy" else 1.0, seed=seed)
        row, episodes = measure(task, problems, engine, SearchSpec(name, 1, params), common)
        rows.append(written(row))
        right[name] = [int(e.verdict is Verdict.RIGHT) for e in episodes]
    return {"rows": rows, "right": right}
