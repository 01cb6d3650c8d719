"""Python API of the commands: settings are named like the flags; models and tokenizers may be in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from stepcredit.episodes.store import EpisodeStore, load_episodes
from stepcredit.errors import InputError
from stepcredit.evaluation.evaluate import EvaluateConfig
from stepcredit.evaluation.evaluate import evaluate as evaluate_with
from stepcredit.grading.grade import Grade
from stepcredit.grading.grader import shared_grader
from stepcredit.grading.style import AUTO, GSM8K, MATH
from stepcredit.logs.graded_rows import gold_answer
from stepcredit.results.schema import AccuracyRow
from stepcredit.rollouts.collect import CollectConfig
from stepcredit.rollouts.collect import collect as collect_with
from stepcredit.rollouts.generate import Answer, GenerateConfig, Prompt, generate
from stepcredit.rollouts.models import Models, name_of
from stepcredit.settings import check_names

STYLES = {"auto": AUTO, "number": GSM8K, "expression": MATH}
"""Kinds of answers, as in `stepcredit grade --answers`."""


def collect(*, task: str, model: Any, output_dir: str, tokenizer: Any = None, **settings: Any) -> EpisodeStore:
    """Samples and grades responses as `stepcredit collect` does; returns the episodes.

    Args:
        task: a name, or `file.py:Class`.
        model: the policy: a name or folder, or a model in memory.
        output_dir: the folder of episodes; an interrupted run resumes in it.
        tokenizer: tokenizer of a model in memory; by default that of the folder it was loaded from.
        **settings: flags of the command: `num_generations=8`, `temperature=0.7`, …

    Raises:
        InputError: any error that the command reports.
    """
    config = _config(CollectConfig, settings, task=task, model=name_of(model), output_dir=output_dir)
    in_memory = tokenizer is not None or not isinstance(model, str)
    collect_with(config, Models(config, model, tokenizer=tokenizer).engine if in_memory else None)
    return load_episodes(output_dir)


def evaluate(
    *,
    task: str,
    model: Any,
    output_dir: str,
    value_model: Any = None,
    reward_model: Any = None,
    tokenizer: Any = None,
    **settings: Any,
) -> list[AccuracyRow]:
    """Evaluates a policy as `stepcredit evaluate` does; returns the rows that it adds to `results.json`.

    Args:
        task: a name, or `file.py:Class`.
        model, value_model, reward_model: names or folders, or models in memory.
        output_dir: the folder of result files; an interrupted run resumes in it.
        tokenizer: tokenizer of a model in memory; by default that of the folder it was loaded from.
        **settings: flags of the command: `search="beam"`, `limit=200`, …

    Raises:
        InputError: any error that the command reports.
    """
    named = {name: name_of(m) for name, m in (("value_model", value_model), ("reward_model", reward_model))}
    config = _config(EvaluateConfig, settings, task=task, model=name_of(model), output_dir=output_dir, **named)
    rows, _ = evaluate_with(config, Models(config, model, value_model, reward_model, tokenizer))
    return rows


def search(
    prompts: Prompt | Sequence[Prompt],
    model: Any,
    value_model: Any = None,
    *,
    reward_model: Any = None,
    tokenizer: Any = None,
    **settings: Any,
) -> list[Answer]:
    """Generates responses to prompts, with V after every step, as `stepcredit generate` does.

    Args:
        prompts: one or several texts or lists of chat messages.
        model, value_model, reward_model: names or folders, or models in memory.
        tokenizer: tokenizer of a model in memory; by default that of the folder it was loaded from.
        **settings: flags of the command: `search="beam"`, `width=4`, `max_new_tokens=512`, …

    Raises:
        InputError: any error that the command reports.
    """
    one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], dict))
    several: Any = [prompts] if one else list(prompts)
    named = {name: name_of(m) for name, m in (("value_model", value_model), ("reward_model", reward_model))}
    config = _config(GenerateConfig, settings, prompts=[], model=name_of(model), **named)
    return generate(config, several, Models(config, model, value_model, reward_model, tokenizer))


def grade(response: str, answer: str | float, *, answers: str = "auto") -> Grade:
    """Grades one response, as `stepcredit grade` grades the rows of a file.

    Args:
        response: text of the response.
        answer: the gold answer, or a worked solution with it after the last `####` or in the last `\\boxed{}`.
        answers: kind of answers: "number", "expression", or "auto" (that of the gold answer).

    Raises:
        InputError: `answer` contains no gold answer, or the kind of answers is unknown.
    """
    if answers not in STYLES:
        raise InputError(f"unknown kind of answers {answers!r}; choose from {', '.join(STYLES)}", "answers")
    return shared_grader().grade(response, gold_answer(answer), STYLES[answers])


def _config(kind: type, settings: dict[str, Any], **arguments: Any) -> Any:
    """Returns the config of a command.

    Raises:
        InputError: a setting is not a flag of the command.
    """
    check_names(settings, {f.name for f in fields(kind)} - {"dry_run", "output"}, kind.__name__)
    return kind(**arguments, **settings)
