"""Step credit in a comparison: which method's signal locates the wrong step in responses of the initial policy?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from stepcredit.experiments.compare_runs import drawn_with, engine_of
from stepcredit.experiments.initial_policy import sampled_episodes
from stepcredit.models.loading import load_policy, load_tokenizer, load_value_model
from stepcredit.results.schema import SignalRow, written
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.task import Problem, Task

EXPLICIT, IMPLICIT, PRIOR, CEILING = "ΔV", "β Σρ", "kind of step", "continuations"


def judge_credit(
    folder: Path,
    task: dict[str, Any],
    seed: int,
    initial: str,
    trained: dict[str, str],
    betas: dict[str, float],
    prompts: int,
    samples: int,
    continuations: int,
    sampling: dict[str, Any],
    data: str | None = None,
) -> dict[str, Any]:
    """Evaluates each signal on responses of the initial policy to test problems, for one seed; returns rows.

    "oreo ΔV" is the change of V, for each method with a value model; "dpo β Σρ" the implicit signal, for each method
    with a β; "kind of step" the error rate of each kind of step in the training episodes; "sft continuations" the
    success rate of fresh continuations of the initial policy (or of OREO's): the ceiling, the signal of an exact V.

    Args:
        folder: folder of the run; `trained` and `initial` are names of its sibling folders.
        task, data, seed, sampling: as in `compare_runs.make_initial`.
        initial: run of the initial policy and the episodes.
        trained: method → run of its policy and value model.
        betas: method → β; the others have no implicit signal.
        prompts, samples: number of test problems, and of responses per problem.
        continuations: number of continuations per state.

    Raises:
        InputError: the task does not label wrong steps.
    """
    loaded, runs = load_task(**task, data=data), folder.parent
    base = str(runs / initial / "policy")
    tokenizer, reference = load_tokenizer(base), load_policy(base)
    rule = StepRule(loaded.step_delimiters)
    problems = list(loaded.problems("test", prompts, seed))
    engine, params = engine_of(reference, tokenizer, runs / initial, sampling), drawn_with(loaded, sampling, seed)
    episodes = sampled_episodes(loaded, engine, "test", prompts, samples, params)
    judged = judge(loaded, problems, tokenizer, episodes, rule)
    training = _training_steps(loaded, runs / initial / "episodes", tokenizer, rule)
    if not judged or not training:
        raise InputError(f"{loaded.name} does not label steps as right or wrong; leave it at 0", "credit_prompts")
    values = _values(judged, {method: runs / name / "value" for method, name in trained.items()})
    signals = {PRIOR: prior_changes(judged, rates_of_kinds(training))}
    signals |= {f"{method} {EXPLICIT}": changes(value) for method, value in values.items()}
    for method, beta in betas.items():
        policy = load_policy(str(runs / trained[method] / "policy"))
        signals[f"{method} {IMPLICIT}"] = implicit_changes(judged, policy, reference, beta)
    common = {"task": loaded.name, "task_version": loaded.version, "split": "test", "seed": seed}
    rows: list[SignalRow] = []
    for method, name in {"sft": initial, **{m: trained[m] for m in ("oreo",) if m in trained}}.items():
        engine = engine_of(str(runs / name / "policy"), tokenizer, runs / name, sampling)
        success = continuation_success(loaded, problems, judged, engine, continuations, seed, params.max_new_tokens)
        signals[f"{method} {CEILING}"] = changes(success)
        rows += _against(judged, values, success, continuations, common, method)
    rows += credit_rows(judged, signals, common, seed)
    for method, value in values.items():
        rows += auc_rows(with_values(judged, value), {**common, "signal": f"{method} V"}, seed)
    return {"rows": [written(row) for row in rows], "kind_rates": rates_of_kinds(training), "responses": len(judged)}


def _values(judged: list[Judged], folders: dict[str, Path]) -> dict[str, Signal]:
    """Returns V after every step, for each method with a value model."""
    with_value = {method: folder for method, folder in folders.items() if folder.is_dir()}
    return {method: values_after_steps(judged, load_value_model(str(f))) for method, f in with_value.items()}


def _training_steps(task: Task, episodes: Path, tokenizer: Any, rule: StepRule) -> list[Judged]:
    """Returns the training episodes with labelled steps."""
    logs = [e for e in load_episodes(episodes) if not e.truncated]
    problems = {e.prompt_id: Problem(e.prompt_id, str(e.prompt), str(e.metadata["answer"])) for e in logs}
    return judge(task, list(problems.values()), tokenizer, logs, rule)


def _against(
    judged: list[Judged], values: dict[str, Signal], rates: Signal, trials: int, common: dict[str, Any], by: str
) -> list[SignalRow]:
    """Returns calibration rows of each V against the success rates of one policy's continuations."""
    rows: list[SignalRow] = []
    for method, value in values.items():
        named = {**common, "signal": f"{method} V", "against": f"{by} {CEILING}"}
        rows += calibration_rows(with_values(judged, value), rates, trials, named, seed=common["seed"])
    return rows
