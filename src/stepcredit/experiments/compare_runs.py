"""Runs of a comparison: the initial policy of a seed with its episodes, and training of a method from it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils.memory import clear_device_cache
from transformers import set_seed

from stepcredit.engines.engine import Engine, SamplingParams, load_engine
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
from stepcredit.models.actor_critic import SAVED
from stepcredit.models.adapters import lora_config
from stepcredit.models.checks import check_ids
from stepcredit.models.loading import load_policy, load_tokenizer
from stepcredit.results.schema import AccuracyRow, written
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.task import Problem, Task
from stepcredit.training.curve_file import curve
from stepcredit.training.methods import METHODS
from stepcredit.training.trainer import OfflineTrainer
from stepcredit.verdict import Verdict

INITIAL = "sft"
"""Name of the initial policy in the rows."""
LORA: dict[str, Any] = {"rank": 16, "alpha": 32, "targets": ["all-linear"]}
"""Settings of the adapters of variants that have some."""


def make_initial(
    folder: Path,
    task: dict[str, Any],
    seed: int,
    scratch: dict[str, int],
    sampled: dict[str, int],
    sampling: dict[str, Any],
    test: dict[str, Any],
    data: str | None = None,
    model: str | None = None,
    episodes: str | None = None,
    transfer: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the initial policy of a seed to `policy/` and its episodes to `episodes/`; returns its evaluation.

    Args:
        folder: folder of the run.
        task, data: arguments of `load_task`.
        seed: seed of training and of the sampling noise.
        scratch: settings of `Scratch`.
        sampled: `prompts` and `samples` of each.
        sampling: see `engine_of` and `drawn_with`.
        test, transfer: see `tested`.
        model: the initial policy; None: one is trained from scratch on the demonstrations of an embedded task.
        episodes: episodes of `model`; None: it is sampled.
    """
    shutil.rmtree(folder, ignore_errors=True)
    set_seed(seed)
    loaded, log = load_task(**task, data=data), []
    if model is None:
        assert isinstance(loaded, Embedded)
        trainer = demonstrated_policy(loaded, folder, seed, Scratch(**scratch))
        policy, tokenizer, log = trainer.model.policy, loaded.tokenizer(), curve(trainer.state.log_history)
    else:
        tokenizer = load_tokenizer(model)
        policy = load_policy(model, tokenizer=tokenizer)
        with folder_written_whole(folder / "policy") as part:
            policy.save_pretrained(part, safe_serialization=True)
            tokenizer.save_pretrained(part)
    engine = engine_of(policy, tokenizer, folder, sampling)
    if episodes is None:
        params = drawn_with(loaded, sampling, seed + 1)
        append_episodes(folder / "episodes", sampled_episodes(loaded, engine, "train", **sampled, params=params))
    else:
        read = list(load_episodes(episodes))
        check_ids((e.tokens.ids for e in read if e.tokens is not None), policy, episodes)
        append_episodes(folder / "episodes", read)
    found = tested(problem_sets(task, data, transfer, test, seed), INITIAL, seed, engine, folder, sampling, test)
    return {**found, "curve": log}


def train_and_test(
    folder: Path,
    task: dict[str, Any],
    initial: str,
    method: str,
    seed: int,
    settings: dict[str, Any],
    sampling: dict[str, Any],
    test: dict[str, Any],
    data: str | None = None,
    transfer: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains a method from the initial policy of a seed; returns the evaluation of its policy.

    Tuning runs delete their models. A learning rate at which training diverges gets accuracy 0.

    Args:
        folder: folder of the run; `initial` is the name of its sibling folder with the initial policy.
        task, seed, sampling, test, data, transfer: as in `make_initial`.
        method: a name in `VARIANTS`.
        settings: settings of its config.
    """
    set_seed(seed)
    variant, loaded, initial_folder = variant_of(method), load_task(**task, data=data), folder.parent / initial
    episodes = list(load_episodes(initial_folder / "episodes"))
    if variant.process_rewards:
        episodes = with_process_rewards(loaded, episodes)
    method_settings = {
        "step_delimiters": list(loaded.step_delimiters),
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
        return _stopped(task["name"], method, seed, args.learning_rate, str(error).split(";")[0], test)
    budget = _budget(trainer)
    has_value = METHODS[variant.method].needs_value
    policy, log = trainer.model.policy, curve(trainer.state.log_history)
    del trainer
    clear_device_cache(garbage_collection=True)  # of the optimizer and the other models, before sampling needs memory
    engine = engine_of(policy, tokenizer, folder, sampling)
    found = tested(problem_sets(task, data, transfer, test, seed), method, seed, engine, folder, sampling, test)
    about = {**budget, "value": f"runs/{folder.name}/value" if has_value else None}
    saved = () if test["split"] == "test" else (folder / name for name in SAVED)
    for part in (*folder.glob("checkpoint-*"), *saved):
        shutil.rmtree(part, ignore_errors=True)
    return {**found, "rows": [{**row, **about} for row in found["rows"]], "curve": log}


def _budget(trainer: OfflineTrainer) -> dict[str, Any]:
    """Returns what a training run used, as columns."""
    return {
        "learning_rate": trainer.args.learning_rate,
        "steps": trainer.state.global_step,
        "epochs": round(float(trainer.state.epoch), 2),
        "tokens_trained": round(sum(row.get("num_tokens", 0) for row in trainer.state.log_history)),
        "episodes": len(trainer.train_dataset.trajectories),
    }


def _stopped(
    task_name: str, method: str, seed: int, learning_rate: float, reason: str, test: dict[str, Any]
) -> dict[str, Any]:
    """Returns one row per search for a learning rate at which training stopped early."""
    about: dict[str, Any] = {"task": task_name, "split": test["split"], "seed": seed, "method": method}
    numbers: dict[str, Any] = {"n": test["prompts"], "accuracy": 0.0, "learning_rate": learning_rate, "stopped": reason}
    rows = [AccuracyRow(**about, search=name, **numbers) for name in test["searches"]]
    return {"rows": [written(row) for row in rows], "right": [], "problems": [], "curve": []}


def engine_of(policy: Any, tokenizer: Any, folder: Path, sampling: dict[str, Any]) -> Engine:
    """Returns the engine of a policy in memory; with `reload`, of the one that was saved, in precision `dtype` and with
    faster linear layers on a CPU. `batch_size` responses are sampled at a time."""
    model = str(folder / "policy") if sampling["reload"] else policy
    return load_engine(model, tokenizer=tokenizer, batch_size=sampling["batch_size"], dtype=sampling["dtype"])


def drawn_with(task: Task, sampling: dict[str, Any], seed: int, temperature: float = 1.0) -> SamplingParams:
    """Returns the sampling parameters; a `max_new_tokens` of None is that of the task."""
    limit = sampling["max_new_tokens"] or task.max_new_tokens
    return SamplingParams(limit, temperature=temperature, stop=task.stop, seed=seed)


class ProblemSet(NamedTuple):
    """Problems of a test: those of a split of the task, or of a file of further ones, which is a split of its own."""

    task: Task
    split: str
    problems: Sequence[Problem]


def problem_sets(
    task: dict[str, Any], data: str | None, transfer: Sequence[str], test: dict[str, Any], seed: int
) -> list[ProblemSet]:
    """Returns the test sets: at most `prompts` problems of the `split` of the task, and of each file of `transfer`."""
    count = test["prompts"]
    loaded = load_task(**task, data=data)
    sets = [ProblemSet(loaded, test["split"], list(loaded.problems(test["split"], count, seed)))]
    for file in transfer:
        further = load_task(**task, data=file)
        sets.append(ProblemSet(further, transfer_name(file), list(further.problems("test"))[:count]))
    return sets


def transfer_name(file: str) -> str:
    """Returns the split that the rows of a file of `transfer` have: its name without suffixes."""
    return Path(file).name.partition(".")[0]


def tested(
    sets: Sequence[ProblemSet],
    method: str,
    seed: int,
    engine: Engine,
    folder: Path,
    sampling: dict[str, Any],
    test: dict[str, Any],
) -> dict[str, Any]:
    """Evaluates a policy; returns one row per test set and search, and for each row which problems were solved, and
    their ids.

    Args:
        sets: the test sets; those after the first one are evaluated with the first search only.
        method, seed, folder: columns of the rows.
        engine: the policy's.
        sampling: see `drawn_with`.
        test: the `searches`; see `problem_sets`.
    """
    rows, right, ids = [], [], []
    for number, (task, split, problems) in enumerate(sets):
        common = {
            "task": task.name,
            "task_version": task.version,
            **({"source_versions": task.source_versions} if task.source_versions else {}),
            "split": split,
            "seed": seed,
            "method": method,
            "policy": f"runs/{folder.name}/policy",
            "value": None,
            **({} if sampling["dtype"] is None else {"dtype": sampling["dtype"]}),
        }
        for search in test["searches"][: 1 if number else None]:
            params = drawn_with(task, sampling, seed, temperature=0.0 if search == "greedy" else 1.0)
            row, episodes = measure(task, problems, engine, SearchSpec(search, 1, params), common)
            rows.append(written(row))
            right.append([int(e.verdict is Verdict.RIGHT) for e in episodes])
            ids.append([e.prompt_id for e in episodes])
    return {"rows": rows, "right": right, "problems": ids}
