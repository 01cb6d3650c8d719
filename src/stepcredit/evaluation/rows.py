"""Result rows of an evaluation: accuracy, standard error and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from stepcredit.engines.engine import Engine, SamplingParams
from stepcredit.episodes.episode import Episode
from stepcredit.evaluation.breakdown import at_k, is_strictly_right, rate
from stepcredit.evaluation.value_quality import Scored, credit_examples, value_rows
from stepcredit.progress import track_units
from stepcredit.results.row_files import add_rows, write_rows
from stepcredit.results.schema import AccuracyRow, ValueRow
from stepcredit.rollouts.single_turn import sample_and_grade
from stepcredit.rollouts.work_units import work_units
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.task import Problem, Task
from stepcredit.verdict import Verdict


def write_value_files(
    out: Path, scored: Sequence[Scored], task: Task, problems: Sequence[Problem], common: dict[str, Any]
) -> list[ValueRow]:
    """Writes `value.json` and `credit.json` of scored responses; returns the value rows."""
    rows = value_rows(scored, task, problems, common)
    add_rows(out / "value.json", rows)
    write_rows(out / "credit.json", credit_examples(scored, task, problems))
    return rows


def measure(
    task: Task,
    problems: Sequence[Problem],
    engine: Engine,
    search: SearchSpec,
    common: dict[str, Any],
) -> tuple[AccuracyRow, list[Episode]]:
    """Samples and grades responses; returns (row of `results.json`, graded episodes).

    Truncated and undecided responses count as not right, and are also counted separately. The standard error is
    clustered by problem. `accuracy_strict` is set only if it differs.
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
) -> AccuracyRow:
    """Returns a row of `results.json` (see `measure`); `at_k` is set if there are several samples."""
    accuracy, stderr = rate(episodes)
    strict, strict_stderr = rate(episodes, is_strictly_right)
    differs: dict[str, Any] = {"accuracy_strict": strict, "stderr_strict": strict_stderr} if strict != accuracy else {}
    return AccuracyRow(
        **{**common, **named(search)},
        n=len(problems),
        accuracy=accuracy,
        stderr=stderr,
        **differs,
        at_k=at_k(episodes, search.samples) if search.samples > 1 else None,
        truncated=sum(e.truncated for e in episodes),
        undecided=sum(e.verdict is Verdict.UNDECIDED for e in episodes),
        tokens_generated=sum(_generated(e) for e in episodes),
        tokens_scored=sum(e.metadata.get("tokens_scored", 0) for e in episodes),
    )


SAMPLING = ("temperature", "top_p", "top_k")
INSTEAD = "choose another --output_dir, or name this policy apart with --method"
"""What to do where kept responses are another policy's."""
ALWAYS = ("max_new_tokens", "max_turns", "engine", "dtype", "chat_template", "merge_system_message")
CHOICES = ("budget", "reward_model")
BEAM = ("continuations", "max_step_tokens", "choose")


def named(search: SearchSpec) -> dict[str, Any]:
    """Returns the columns of a search: name, width, and non-default sampling settings (none for greedy)."""
    columns: dict[str, Any] = {"search": search.name, "width": search.width}
    if search.params.temperature == 0:
        return columns
    sampling = {name: getattr(search.params, name) for name in SAMPLING}
    return columns | {name: value for name, value in sampling.items() if value != getattr(SamplingParams, name)}


def setting_columns(config: Any, search: str) -> dict[str, Any]:
    """Returns the non-default settings of an evaluation that affect this search, as columns."""
    names = (
        *ALWAYS,
        *(() if search in ("greedy", "sample") else CHOICES),
        *(BEAM if search in ("beam", "all") else ()),
    )
    return changed_from_default(config, names)


def changed_from_default(config: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns the settings in `names` that differ from their defaults."""
    defaults = {item.name: item.default for item in fields(config)}
    return {name: getattr(config, name) for name in names if getattr(config, name) != defaults[name]}


def _generated(episode: Episode) -> int:
    """Returns the number of tokens sampled for an episode, including those of discarded candidates of a search."""
    own = 0 if episode.tokens is None else int(episode.tokens.action_mask.sum())
    return int(episode.metadata.get("tokens_generated", own))
