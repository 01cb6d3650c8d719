"""ALFWorld games played by demonstrators of mixed quality."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError
from stepcredit.flags import flag
from stepcredit.processes import worker_count
from stepcredit.progress import Advance
from stepcredit.rollouts.work_units import Unit, WorkFolder, settings_of, work_units
from stepcredit.tasks.alfworld.alfworld_task import SPLITS, ALFWorld
from stepcredit.tasks.alfworld.demonstrators import CARELESSNESS, demonstrations

UNIT_GAMES = 32
"""Games of one work unit of demonstrations: written whole or played again."""


@dataclass
class DemonstrateConfig:
    """Have ALFWorld games played by demonstrators of mixed quality, who know where everything is and are careless
    to a different degree: episodes to fine-tune a policy on. Run it again to go on where it stopped."""

    output_dir: str = field(metadata=flag("output_dir", "A broken run goes on in it."))
    data: str | None = field(default=None, metadata=flag("data", default="$ALFWORLD_DATA"))
    prompt_style: str | None = field(
        default=None,
        metadata=flag("prompt_style", "react (default), think (without instructions) or act (commands)."),
    )
    split: str = field(default="train", metadata=flag("split", choices=list(SPLITS)))
    limit: int | None = field(default=None, metadata=flag("limit", default="all"))
    num_generations: int = field(default=4, metadata=flag("num_generations"))
    careless: float | None = field(
        default=None,
        metadata={"help": f"How careless all of them are, 0 to 1; default: each draws one of {CARELESSNESS}."},
    )
    distracted: float = field(
        default=0.0,
        metadata={"help": "Their chance to lose the thread for several turns, at each place they look into."},
    )
    max_turns: int = field(default=ALFWorld.max_turns, metadata=flag("max_turns", "It cuts the careless."))
    seed: int = field(default=0, metadata=flag("seed"))
    workers: int | None = field(default=None, metadata=flag("workers", default="one per processor"))


def demonstrate(config: DemonstrateConfig) -> dict[str, Any]:
    """Writes the episodes; returns counts (see `DemonstrateConfig`).

    Raises:
        InputError: no extra, no games, a setting out of range, or a folder that holds something else or is being
            written.
    """
    for name in ("num_generations", "max_turns"):
        if getattr(config, name) < 1:
            raise InputError(f"{getattr(config, name)} must be 1 or more", name)
    for name in ("careless", "distracted"):
        share = getattr(config, name)
        if share is not None and not 0 <= share <= 1:
            raise InputError(f"{share} must lie in [0, 1]", name)
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
        ProcessPoolExecutor(worker_count(config.workers), mp_context=get_context("spawn")) as pool,
    ):

        def played(unit: Unit, advance: Advance) -> Iterator[Episode]:
            for episodes in pool.map(play, unit):
                yield from episodes
                advance(1)

        stored = work.finish(played, "demonstrating", counted="games")
    won = sum(episode.reward == 1.0 for episode in stored)
    return {"games": len(problems), "episodes": len(stored), "won": won}
