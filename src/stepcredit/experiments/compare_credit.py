"""The credit of a comparison: on fresh responses of the initial policy, which method's signal finds the wrong step?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepcredit.engines.engine import load_engine
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.evaluation.step_credit import (
    Judged,
    Signal,
    auc_rows,
    calibration_rows,
    changes,
    continuation_success,
    credit_rows,
    implicit_changes,
    judge,
    prior_changes,
    rates_of_kinds,
    values_after_steps,
    with_values,
)
from stepcredit.experiments.initial_policy import sampled_episodes
from stepcredit.models.loading import load_policy, load_tokenizer, load_value_model
from stepcredit.results.schema import SignalRow, written
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.task import Problem

EXPLICIT, IMPLICIT, PRIOR, CEILING = "ΔV", "β Σρ", "kind of step", "continuations"


def judge_credit(
    folder: Path,
    task_name: str,
    seed: int,
    initial: str,
    trained: dict[str, str],
    betas: dict[str, float],
    prompts: int,
    samples: int,
    continuations: int,
) -> dict[str, Any]:
    """Rows of the credit of one seed.

    Responses of the initial policy to test problems are judged by: the change of V of every method that has one
    ("oreo ΔV"), β Σρ of every policy with a β ("dpo β Σρ"), the rate at which each kind of step goes wrong in the
    training episodes ("kind of step"), and the success rate of fresh continuations of the initial policy and of
    OREO's ("sft continuations"), which is the ceiling: what a V without error would say.

    Args:
        folder: of the run; `trained` and `initial` are names of folders beside it.
        task_name, seed: as everywhere.
        initial: the run of the policy and the episodes.
        trained: by method, the run of its policy and value.
        betas: by method; those without one have no implicit signal.
        prompts, samples: how many responses are judged.
        continuations: drawn from each state.

    Raises:
        InputError: the task does not know which steps are wrong.
    """
    task, runs = load_task(task_name), folder.parent
    base = runs / initial / "policy"
    tokenizer, reference = load_tokenizer(str(base)), load_policy(str(base))
    rule = StepRule(task.step_delimiters)
    problems = list(task.problems("test", prompts, seed))
    episodes = sampled_episodes(task, reference, tokenizer, "test", prompts, samples, seed)
    judged = judge(task, problems, tokenizer, episodes, rule)
    common = {"task": task.name, "task_version": task.version, "split": "test", "seed": seed}

    logs = [e for e in load_episodes(runs / initial / "episodes") if not e.truncated]
    problems_of_logs = {e.prompt_id: Problem(e.prompt_id, str(e.prompt), str(e.metadata["answer"])) for e in logs}
    training = judge(task, list(problems_of_logs.values()), tokenizer, logs, rule)
    if not judged or not training:
        raise InputError(f"no step of {task.name} is known to be right or wrong; leave it at 0", "credit_prompts")
    rates = rates_of_kinds(training)
    signals: dict[str, Signal] = {PRIOR: prior_changes(judged, rates)}
    values: dict[str, Signal] = {}
    for method, name in trained.items():
        if (runs / name / "value").is_dir():
            values[method] = values_after_steps(judged, load_value_model(str(runs / name / "value")))
            signals[f"{method} {EXPLICIT}"] = changes(values[method])
        if method in betas:
            policy = load_policy(str(runs / name / "policy"))
            signals[f"{method} {IMPLICIT}"] = implicit_changes(judged, policy, reference, betas[method])
    rows: list[SignalRow] = []
    for method, policy_folder in {"sft": base, **_ceilings(runs, trained)}.items():
        engine = load_engine(str(policy_folder), tokenizer=tokenizer, batch_size=512)
        rates_after = continuation_success(task, problems, judged, engine, continuations, seed)
        signals[f"{method} {CEILING}"] = changes(rates_after)
        rows += _against(judged, values, rates_after, continuations, common, method)
    rows += credit_rows(judged, signals, common, seed)
    for method, value in values.items():
        rows += auc_rows(with_values(judged, value), {**common, "signal": f"{method} V"}, seed)
    return {"rows": [written(row) for row in rows], "kind_rates": rates, "responses": len(judged)}


def _ceilings(runs: Path, trained: dict[str, str]) -> dict[str, Path]:
    return {method: runs / trained[method] / "policy" for method in ("oreo",) if method in trained}


def _against(
    judged: list[Judged], values: dict[str, Signal], rates: Signal, trials: int, common: dict[str, Any], by: str
) -> list[SignalRow]:
    """How well each V agrees with the success rates of one policy's continuations."""
    rows: list[SignalRow] = []
    for method, value in values.items():
        named = {**common, "signal": f"{method} V", "against": f"{by} {CEILING}"}
        rows += calibration_rows(with_values(judged, value), rates, trials, named, seed=common["seed"])
    return rows
