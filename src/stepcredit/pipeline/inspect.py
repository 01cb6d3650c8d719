"""Inspect: what is in a folder of episodes, and what of it can teach."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stepcredit.episodes.statistics import Distribution, Summary, policy_turns, summarise
from stepcredit.episodes.steps import StepRule, preview
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.pipeline.collect import MANIFEST
from stepcredit.pipeline.progress import track
from stepcredit.tasks.registry import step_delimiters_of

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
_BAR = 20


@dataclass
class InspectConfig:
    """Say what is in a folder of episodes: success, what teaches nothing, duplicates, lengths, steps."""

    episodes: str = field(metadata={"help": "The folder of episodes.", "positional": True})
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Counts tokens where no ids are stored: a folder or a name on the hub."},
    )
    step_delimiters: list[str] | None = field(
        default=None,
        metadata={
            "help": "Where a step ends; \\n, \\t, \\r and \\\\ are understood. Default: those of the task that the "
            "episodes were collected for, and line breaks where they were imported."
        },
    )
    preview: int = field(default=0, metadata={"help": "Show this many responses cut into their steps."})
    json: bool = field(default=False, metadata={"help": "Print JSON in place of tables."})


def inspect_episodes(config: InspectConfig) -> Summary:
    """Sum up the episodes (see `InspectConfig`); `render` and `render_preview` show them.

    Raises:
        InputError: no episodes there, a tokenizer that cannot be loaded, or an impossible delimiter.
    """
    rule = step_rule(config.step_delimiters, Path(config.episodes))
    store = load_episodes(config.episodes)
    tokenizer = _load_tokenizer(config.tokenizer) if config.tokenizer else None
    return summarise(track(store, "reading", len(store), "episodes"), rule, tokenizer)


def step_rule(delimiters: list[str] | None, episodes: Path) -> StepRule:
    r"""Delimiters as typed in a shell, where `\n` is two characters, as a rule; the word none alone is no delimiter.

    Args:
        delimiters: what was given; None for those of the task that the episodes were collected for, and line breaks
            where they were imported.
        episodes: a folder of episodes.

    Raises:
        InputError: an empty delimiter, or a backslash before anything but n, r, t and a backslash.
    """
    if delimiters is None:
        found = collected_delimiters(episodes)
        return StepRule() if found is None else StepRule(found)
    return StepRule(() if delimiters == ["none"] else tuple(_unescape(text) for text in delimiters))


def collected_delimiters(episodes: Path) -> tuple[str, ...] | None:
    """Where the steps end of the task that episodes were collected for; None where they were imported.

    Raises:
        InputError: a damaged manifest.
    """
    manifest = episodes / MANIFEST
    if not manifest.exists():
        return None
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))
        return tuple(told["step_delimiters"]) if "step_delimiters" in told else step_delimiters_of(str(told["task"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot be read: {error}", str(manifest)) from error


def _unescape(text: str) -> str:
    if not text:
        raise InputError("a delimiter must not be empty", "steps")

    def character(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise InputError(f"{match[0]!r} in {text!r} means nothing; use \\n, \\t, \\r or \\\\", "steps")
        return _ESCAPES[match[1]]

    return re.sub(r"\\(.?)", character, text, flags=re.DOTALL)


def _load_tokenizer(name: str) -> Any:
    from stepcredit.models.loading import load_tokenizer  # here, because it imports transformers and torch

    return load_tokenizer(name)


def render(summary: Summary) -> Group:
    """The summary as tables for a terminal."""
    return Group(_outcome_table(summary), _success_table(summary), _length_table(summary), *_remarks(summary))


def render_preview(config: InspectConfig) -> Group:
    """The first `config.preview` responses, cut into steps by the rule or by their own steps."""
    rule = step_rule(config.step_delimiters, Path(config.episodes))
    panels: list[RenderableType] = []
    for episode in load_episodes(config.episodes)[: config.preview]:
        if episode.steps:
            shown = "\n".join(f"[{k}] {step!r}" for k, step in enumerate(episode.steps))
        else:
            shown = "\n".join(preview(turn, rule) for turn in policy_turns(episode.completion))
        title = f"prompt {episode.prompt_id}, sample {episode.sample}, reward {episode.reward}"
        panels.append(Panel(Text(shown), title=Text(title), title_align="left"))
    return Group(*panels)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for k, name in enumerate(columns):
        table.add_column(name, justify="right" if k else "left")
    return table


def _outcome_table(summary: Summary) -> Table:
    table = _table("Episodes", "", "number", "share")
    table.add_row("episodes", f"{summary.episodes:,}", "")
    table.add_row("prompts", f"{summary.prompts:,}", "")
    for name in ("right", "wrong", "undecided", "truncated"):
        share = getattr(summary, name)
        table.add_row(name, f"{round(share * summary.episodes):,}", f"{share:.1%}")
    table.add_row("repeated (same prompt and response)", *_part(summary.duplicates, summary.episodes))
    table.add_row("with the sampled ids", *_part(round(summary.own_ids * summary.episodes), summary.episodes))
    turns = round(summary.multi_turn * summary.episodes)
    table.add_row("of several turns", *_part(turns, summary.episodes))
    if summary.reward_mean is not None:
        error = "" if summary.reward_stderr is None else f" ± {summary.reward_stderr:.4f}"
        table.add_row("mean reward ± standard error", f"{summary.reward_mean:.4f}{error}", "")
    return table


def _part(number: int, whole: int) -> tuple[str, str]:
    return f"{number:,}", f"{number / whole:.1%}"


def _success_table(summary: Summary) -> Table:
    table = _table("Prompts by their share of right responses", "", "prompts", "share")
    table.add_column("", justify="left")
    highest = max(summary.success.values()) or 1
    for name, number in summary.success.items():
        table.add_row(name, *_part(number, summary.prompts), "█" * round(_BAR * number / highest))
    table.add_row("no right or wrong one", *_part(summary.prompts_without_outcome, summary.prompts), "")
    table.add_section()
    for name, number in (
        ("teach nothing: all right", summary.prompts_all_right),
        ("teach nothing: all wrong", summary.prompts_all_wrong),
        ("teach nothing: a single response", summary.prompts_single),
        ("teach nothing: no reward", summary.prompts_undecided),
    ):
        table.add_row(name, *_part(number, summary.prompts), "")
    return table


def _length_table(summary: Summary) -> Table:
    table = _table("Lengths", "", "mean", "median", "95%", "longest")
    rows: list[tuple[str, Distribution | None]] = [
        ("responses of a prompt", summary.responses_per_prompt),
        ("prompt, characters", summary.prompt_characters),
        ("response, characters", summary.completion_characters),
        ("response, tokens", summary.completion_tokens),
        ("prompt and response, tokens", summary.total_tokens),
        ("steps of a response", summary.steps),
    ]
    for name, numbers in rows:
        if numbers is not None:
            cells = (f"{n:,.1f}" for n in (numbers.mean, numbers.median, numbers.p95))
            table.add_row(name, *cells, f"{numbers.max:,.0f}")
    return table


def _remarks(summary: Summary) -> list[Text]:
    remarks = []
    if summary.prompt_id_clashes:
        remarks.append(f"{summary.prompt_id_clashes:,} prompt ids stand for more than one prompt: mend prompt_id.")
    if summary.untokenised:
        remarks.append(f"{summary.untokenised:,} responses are not given back by this tokenizer.")
    if summary.total_tokens is None:
        remarks.append("No ids are stored; give --tokenizer to count tokens.")
    return [Text(remark) for remark in remarks]
