"""ALFWorld's own commands: build games, and have them played by demonstrators of mixed quality."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.errors import InputError
from stepcredit.pipeline.acting import processes
from stepcredit.pipeline.collect import resume
from stepcredit.pipeline.progress import track, track_units
from stepcredit.pipeline.results import write_json
from stepcredit.tasks.alfworld.build import build_games, wanted_games
from stepcredit.tasks.alfworld.demonstrators import CARELESSNESS, demonstrations
from stepcredit.tasks.alfworld.scenario import FAMILIES
from stepcredit.tasks.alfworld.task import SPLITS, ALFWorld

UNIT_GAMES = 32
"""Games of one work unit of demonstrations: written whole or played again."""


@dataclass
class BuildConfig:
    """Build ALFWorld games from the floor plans that the alfworld package ships: train, valid_seen (the same rooms,
    other placements) and valid_unseen (other floor plans), all six families in turn, each game won on the engine
    before it counts. Needs the extra: pip install 'stepcredit[alfworld]'. Run it again to go on where it stopped.
    Scores on built games are not comparable with published scores."""

    out: str = field(metadata={"help": "The folder to build in; afterwards --data or $ALFWORLD_DATA."})
    train: int = field(default=600, metadata={"help": "Games of the train split; a multiple of six is balanced."})
    valid_seen: int = field(default=120, metadata={"help": "Games of valid_seen."})
    valid_unseen: int = field(default=120, metadata={"help": "Games of valid_unseen."})
    seed: int = field(default=0, metadata={"help": "Seed of rooms, placements and tasks."})
    workers: int | None = field(default=None, metadata={"help": "Processes; default: one a processor."})
    dry_run: bool = field(default=False, metadata={"help": "Say what would be done, and stop."})


@dataclass
class DemonstrateConfig:
    """Have ALFWorld games played by demonstrators of mixed quality, who know where everything is and are careless
    to a different degree: episodes to fine-tune a policy on. Run it again to go on where it stopped."""

    out: str = field(metadata={"help": "The folder of episodes to write."})
    data: str | None = field(default=None, metadata={"help": "The folder of games; default: $ALFWORLD_DATA."})
    prompt_style: str | None = field(
        default=None,
        metadata={"help": "react (default: thought and action), think (without instructions) or act (commands)."},
    )
    split: str = field(default="train", metadata={"help": "Which split.", "choices": list(SPLITS)})
    prompts: int | None = field(default=None, metadata={"help": "How many games; default: all."})
    samples: int = field(default=4, metadata={"help": "Demonstrations a game."})
    careless: float | None = field(
        default=None,
        metadata={"help": f"How careless all of them are, 0 to 1; default: each draws one of {CARELESSNESS}."},
    )
    distracted: float = field(
        default=0.0,
        metadata={"help": "Their chance to lose the thread for several turns, at each place they look into."},
    )
    max_turns: int = field(default=ALFWorld.max_turns, metadata={"help": "Turn limit; it cuts the careless."})
    seed: int = field(default=0, metadata={"help": "Seed of the demonstrators."})
    workers: int | None = field(default=None, metadata={"help": "Processes; default: one a processor."})


def build(config: BuildConfig) -> dict[str, Any]:
    """Builds what is not there yet; returns counts, those by family included (see `BuildConfig`).

    Raises:
        InputError: no extra, a negative count, or a folder built with another seed.
    """
    counts = {split: getattr(config, split) for split in SPLITS}
    for split, count in counts.items():
        if count < 0:
            raise InputError(f"{count} is no number of games", split)
    out = Path(config.out)
    wanted = wanted_games(out, counts, config.seed)
    if config.dry_run:
        return {"games": len(wanted), **{split: count for split, count in counts.items() if count}}
    _same_seed(out, config)
    games = list(track(build_games(wanted, processes(config.workers)), "building games", len(wanted), "games"))
    families = Counter(w.family for w in wanted)
    summary = {
        "games": len(games),
        "there before": sum(g.was_there for g in games),
        "rejected draws": sum(g.rejected for g in games),
        **{family: families[family] for family in FAMILIES if families[family]},
    }
    write_json(out / "built.json", {**asdict(config), **summary})
    return summary


def _same_seed(out: Path, config: BuildConfig) -> None:
    """Keeps a folder of games to one seed; more games may be added."""
    kept = out / "built.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8"))["seed"] != config.seed:
        raise InputError("was built with another seed; choose another --out", str(out))
    if not kept.exists() and out.exists() and any(out.iterdir()):
        raise InputError("is not empty and was not built here; choose another --out", str(out))
    write_json(kept, asdict(config))


def demonstrate(config: DemonstrateConfig) -> dict[str, Any]:
    """Writes the episodes; returns counts (see `DemonstrateConfig`).

    Raises:
        InputError: no extra, no games, a setting out of range, or a folder that holds something else.
    """
    for name in ("samples", "max_turns"):
        if getattr(config, name) < 1:
            raise InputError(f"{getattr(config, name)} must be 1 or more", name)
    for name in ("careless", "distracted"):
        share = getattr(config, name)
        if share is not None and not 0 <= share <= 1:
            raise InputError(f"{share} must lie in [0, 1]", name)
    task = ALFWorld(config.data, config.prompt_style)
    problems = list(task.problems(config.split, config.prompts))
    asked = {**asdict(config), "task_version": task.version, "source_versions": task.source_versions}
    out = Path(config.out)
    done = resume(out, {name: value for name, value in asked.items() if name not in ("out", "workers", "data")})
    units = [problems[k : k + UNIT_GAMES] for k in range(0, len(problems), UNIT_GAMES)]
    play = partial(
        demonstrations,
        task,
        samples=config.samples,
        seed=config.seed,
        max_turns=config.max_turns,
        careless=config.careless,
        distracted=config.distracted,
    )
    with ProcessPoolExecutor(processes(config.workers), mp_context=get_context("spawn")) as pool:
        for unit, advance in track_units(units[done:], "demonstrating", unit="games"):
            episodes: list[Episode] = []
            for played in pool.map(play, unit):
                episodes += played
                advance(1)
            append_episodes(out, episodes)
    stored = load_episodes(out)
    won = sum(episode.reward == 1.0 for episode in stored)
    return {"games": len(problems), "episodes": len(stored), "won": won}
