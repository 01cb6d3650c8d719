"""`stepcredit inspect`: summarises a folder of episodes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from rich.console import Console, Group

from stepcredit.episodes.delimiters import step_rule
from stepcredit.episodes.store import load_episodes
from stepcredit.episodes.summary import step_previews, summarise
from stepcredit.flags import BY_VERDICT, OF_EPISODES, flag
from stepcredit.metrics.dataset import Summary
from stepcredit.parsing import parse
from stepcredit.progress import Meter
from stepcredit.report.dataset import dataset_tables, preview_panels
from stepcredit.settings import Limits, Settings
from stepcredit.verdict import REWARD_THRESHOLD


@dataclass
class InspectConfig(Settings):
    """Summarise a folder of episodes: success, prompts without training signal, duplicates, lengths, steps."""

    episodes: Annotated[str, Limits(not_empty=True)] = field(
        metadata={"help": "The folder of episodes.", "positional": True}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "For episodes without ids: a folder or a hub name."})
    step_delimiters: list[str] | None = field(default=None, metadata=flag("step_delimiters", OF_EPISODES))
    reward_threshold: float = field(default=REWARD_THRESHOLD, metadata=flag("reward_threshold", BY_VERDICT))
    preview: Annotated[int, Limits(at_least=0)] = field(default=0, metadata={"help": "Responses to show, in steps."})
    json: bool = field(default=False, metadata={"help": "Print JSON instead of tables."})


def inspect_episodes(config: InspectConfig) -> Summary:
    """Returns the summary of a folder of episodes (see `InspectConfig`)."""
    rule, store = step_rule(config.step_delimiters, Path(config.episodes)), load_episodes(config.episodes)
    tokenizer = None
    if config.tokenizer:
        from stepcredit.models.loading import load_tokenizer  # imports transformers and torch

        tokenizer = load_tokenizer(config.tokenizer)
    with Meter("reading", len(store), "episodes") as meter:
        return summarise(store.rows(), rule, tokenizer, meter.advance, config.reward_threshold)


def run(arguments: list[str]) -> int:
    """Prints the summary as tables or JSON."""
    (config,) = parse("inspect", [InspectConfig], arguments)
    summary = inspect_episodes(config)
    if config.json:
        print(json.dumps(asdict(summary), indent=1))
        return 0
    shown = load_episodes(config.episodes)[: config.preview]
    previews = step_previews(shown, step_rule(config.step_delimiters, Path(config.episodes)))
    Console().print(Group(dataset_tables(summary), preview_panels(previews)))
    return 0
