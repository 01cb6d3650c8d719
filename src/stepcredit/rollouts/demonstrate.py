"""Demonstrations of ALFWorld games by scripted demonstrators of mixed quality."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from stepcredit.episodes.episode import Episode
from stepcredit.flags import flag
from stepcredit.processes import worker_pool
from stepcredit.progress import Advance
from stepcredit.rollouts.work_units import Unfinished, Unit, WorkFolder, settings_of, work_units
from stepcredit.settings import Limits, Settings
from stepcredit.tasks.alfworld.alfworld_task import SPLITS, ALFWorld
from stepcredit.tasks.alfworld.demonstrators import CARELESSNESS, demonstrations

UNIT_GAMES = 32
"""Number of games per work unit."""


@dataclass
class DemonstrateConfig(Settings):
    """Generate ALFWorld demonstrations of mixed quality for fine-tuning a policy: the demonstrators know where every
    object is and make mistakes at different rates. Run the command again to resume."""

    output_dir: Annotated[str, Limits(not_empty=True)] = field(
        metadata=flag("output_dir", "An interrupted run resumes in it.")
    )
    data: str | None = field(default=None, metadata=flag("data", default="$ALFWORLD_DATA"))
    prompt_style: str | None = field(
        default=None,
        metadata=flag("prompt_style", "react (default), think (without instructions) or act (commands)."),
    )
    split: str = field(default="train", metadata=flag("split", choices=list(SPLITS)))
    limit: Annotated[int | None, Limits(at_least=1)] = field(default=None, metadata=flag("limit", default="all"))
    num_generations: Annotated[int, Limits(at_least=1)] = field(default=4, metadata=flag("num_generations"))
    careless: Annotated[float | None, Limits(at_least=0, at_most=1)] = field(
        default=None,
        metadata={
            "help": f"Rate of mistakes of all demonstrators, 0 to 1; default: each samples one of {CARELESSNESS}."
        },
    )
    distracted: Annotated[float, Limits(at_least=0, at_most=1)] = field(
        default=0.0,
        metadata={"help": "Probability, at each place visited, of being distracted for several turns."},
    )
    max_turns: Annotated[int, Limits(at_least=1)] = field(
        default=ALFWorld.max_turns, metadata=flag("max_turns", "Longer demonstrations are truncated.")
    )
    seed: Annotated[int, Limits(at_least=0, at_most=2**32 - 1)] = field(default=0, metadata=flag("seed"))
    workers: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata=flag("workers", default="one per processor")
    )


def demonstrate(config: DemonstrateConfig) -> dict[str, Any]:
    """Writes the demonstrations and returns counts (see `DemonstrateConfig`).

    Raises:
        InputError: the alfworld extra or its games are missing, a setting is out of range, or the folder has other
            contents or is in use.
    """
    task = ALFWorld(config.data, config.prompt_style)
    problems = list(task.problems(config.split, config.limit))
    work = WorkFolder(Path(config.output_dir), settings_of(config, task), work_units(problems, 1, UNIT_GAMES))
    play = partial(
        demonstrations,
        task,
        samples=config.num_generations,
        seed=config.seed,
        max_turns=config.max_turns,
        careless=config.careless,
        distracted=config.distracted,
    )
    with (
        work.held("stepcredit alfworld demonstrate"),
        worker_pool(config.workers or os.cpu_count() or 1) as pool,
    ):

        def played(unit: Unit, advance: Advance, there: Unfinished) -> Iterator[Episode]:
            for episodes in pool.map(play, unit):
                yield from episodes
                advance(1)

        stored = work.finish(played, "demonstrating", counted="games")
    won = sum(episode.reward == 1.0 for episode in stored)
    return {"games": len(problems), "episodes": len(stored), "won": won}
