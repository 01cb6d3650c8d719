"""The rows of an evaluation: how often, how sure, at which cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepcredit.engines.engine import Engine, SamplingParams
from stepcredit.episodes.episode import Episode
from stepcredit.evaluation.breakdown import at_k, is_strictly_right, rate
from stepcredit.evaluation.value_quality import Scored, credit_examples, value_rows
from stepcredit.files import write_json
from stepcredit.progress import track_units
from stepcredit.results.store import SAMPLING, add_rows
from stepcredit.rollouts.single_turn import sample_and_grade
from stepcredit.rollouts.work_units import work_units
from stepcredit.search.spec import SearchSpec
from stepcredit.tasks.task import Problem, Task
from stepcredit.verdict import Verdict


def write_value_files(
    out: Path, scored: Sequence[Scored], task: Task, problems: Sequence[Problem], common: dict[str, Any]
) -> list[dict[str, Any]]:
    """`value.json` and `credit.json` of scored responses; returns the value rows."""
    rows = value_rows(scored, task, problems, common)
    add_rows(out / "value.json", rows)
    write_json(out / "credit.json", credit_examples(scored, task, problems))
    return rows


def measure(
    task: Task,
    problems: Sequence[Problem],
    engine: Engine,
    search: SearchSpec,
    common: dict[str, Any],
) -> tuple[dict[str, Any], list[Episode]]:
    """(a row of `results.json`, the graded responses).

    Truncated and undecided responses stay in the denominator as not right, and are counted beside it. The
    standard error is clustered by problem; `accuracy_strict` stands beside where it differs.
    """
    units = work_units(problems, search.samples)
    label = f"{common.get('method', '')} {search.name}".strip()
    episodes = [
        episode
        for unit, advance in track_units(units, label, search.samples)
        for episode in sample_and_grade(task, unit, engine, search.samples, search.params, advance)
    ]
    return result_row(episodes, problems, search, common), episodes


def result_row(
    episodes: Sequence[Episode], problems: Sequence[Problem], search: SearchSpec, common: dict[str, Any]
) -> dict[str, Any]:
    """A row of `results.json`; see `measure`. `at_k` is there where there are several samples."""
    accuracy, stderr = rate(episodes)
    strict, strict_stderr = rate(episodes, is_strictly_right)
    told_apart = {"accuracy_strict": strict, "stderr_strict": strict_stderr} if strict != accuracy else {}
    return {
        **common,
        **named(search),
        "n": len(problems),
        "accuracy": accuracy,
        "stderr": stderr,
        **told_apart,
        **({"at_k": at_k(episodes, search.samples)} if search.samples > 1 else {}),
        "truncated": sum(e.truncated for e in episodes),
        "undecided": sum(e.verdict is Verdict.UNDECIDED for e in episodes),
        "tokens_generated": sum(_generated(e) for e in episodes),
        "tokens_scored": sum(e.metadata.get("tokens_scored", 0) for e in episodes),
    }


def named(search: SearchSpec) -> dict[str, Any]:
    """What a row says of its search: name, width, and the settings that are not plain sampling's; greedy has none."""
    named, params = {"search": search.name, "width": search.width}, search.params
    if params.temperature == 0:
        return named
    told = {name: getattr(params, name) for name in SAMPLING}
    return {**named, **{name: setting for name, setting in told.items() if setting != getattr(SamplingParams, name)}}


def _generated(episode: Episode) -> int:
    """Tokens drawn for an episode: all that its search drew, where it is what a search chose."""
    alone = 0 if episode.tokens is None else int(episode.tokens.action_mask.sum())
    return int(episode.metadata.get("tokens_generated", alone))
