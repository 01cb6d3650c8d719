"""Builder of games from the floor plans of the alfworld package; each game is certified by winning it on the engine.

The files have the layout of the published games, so stock ALFWorld plays them. Scores are not comparable with published
scores, because the positions of the objects are sampled here.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from stepcredit.processes import worker_pool
from stepcredit.tasks.alfworld.alfworld_task import GAMES
from stepcredit.tasks.alfworld.game import Game
from stepcredit.tasks.alfworld.installation import shipped
from stepcredit.tasks.alfworld.pddl import pddl_problem
from stepcredit.tasks.alfworld.plan import plan, read_goal
from stepcredit.tasks.alfworld.rooms import Room, load_room, scenes
from stepcredit.tasks.alfworld.scenario import FAMILIES, Scenario, draw_scenario

_ATTEMPTS = 20


@dataclass(frozen=True)
class GameSpec:
    """The specification of one game: number `number` of a split; families alternate."""

    root: Path
    split: str
    number: int
    seed: int

    @property
    def family(self) -> str:
        """The family of the game."""
        return FAMILIES[self.number % len(FAMILIES)]


@dataclass(frozen=True)
class BuiltGame:
    """A finished game: its file, and the number of sampled games before it that could not be won."""

    file: Path
    rejected: int
    was_there: bool


def game_specs(root: Path, counts: Mapping[str, int], seed: int) -> list[GameSpec]:
    """The specifications of all games of a build: `counts[split]` per split."""
    return [GameSpec(root, split, number, seed) for split, count in counts.items() for number in range(count)]


def build_games(specs: list[GameSpec], workers: int) -> Iterator[BuiltGame]:
    """Builds the missing games, each one atomically.

    Args:
        specs: specifications from `game_specs`, all under one root.
        workers: number of processes.
    """
    for root in {w.root for w in specs}:
        (root / "logic").mkdir(parents=True, exist_ok=True)
        for name in ("alfred.pddl", "alfred.twl2"):
            shutil.copyfile(shipped("data", name), root / "logic" / name)
    with worker_pool(workers) as pool:
        yield from pool.map(build_game, specs, chunksize=4)


def build_game(spec: GameSpec) -> BuiltGame:
    """Samples, writes and certifies one game.

    Raises:
        RuntimeError: no sampled game could be won.
    """
    for attempt in range(_ATTEMPTS):
        key = [spec.seed, zlib.crc32(spec.split.encode()), spec.number, attempt]
        rng = np.random.default_rng(key)
        scenario = draw_scenario(spec.family, _rooms(spec.split), rng)
        kind = f"{scenario.family}-{scenario.target}-None-{scenario.parent or scenario.lamp}-{scenario.room.scene}"
        folder = spec.root / GAMES / spec.split / kind / f"trial_T{spec.seed:03d}{spec.number:06d}"
        if (folder / "game.tw-pddl").exists():
            return BuiltGame(folder / "game.tw-pddl", attempt, was_there=True)
        if _write_certified(scenario, folder):
            return BuiltGame(folder / "game.tw-pddl", attempt, was_there=False)
    raise RuntimeError(f"none of {_ATTEMPTS} samples of game {spec.number} of {spec.split} could be won")


@cache
def _rooms(split: str) -> tuple[Room, ...]:
    return tuple(load_room(scene) for scene in scenes(split))


def _write_certified(scenario: Scenario, folder: Path) -> bool:
    """Writes a game if it can be won, and returns whether it can. The draft lies outside the folders of games."""
    root = folder.parents[3]
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="draft-", dir=root) as scratch:
        draft = Path(scratch) / folder.name
        draft.mkdir()
        if not _certified(scenario, draft):
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(folder)
    return True


def _certified(scenario: Scenario, draft: Path) -> bool:
    """Writes a game into a folder and returns whether it can be won."""
    problem = pddl_problem(scenario, draft.name)
    grammar = shipped("data", "alfred.twl2").read_text(encoding="utf-8")
    (draft / "initial_state.pddl").write_text(problem, encoding="utf-8")
    _write(draft / "traj_data.json", _about(scenario, draft.name))
    game: dict[str, Any] = {
        "pddl_domain": shipped("data", "alfred.pddl").read_text(encoding="utf-8"),
        "grammar": grammar.replace("UNKNOWN GOAL", scenario.description),
        "pddl_problem": problem,
        "solvable": False,
        "walkthrough": [],
    }
    _write(draft / "game.tw-pddl", game)
    walkthrough = certify(draft / "game.tw-pddl")
    if walkthrough is None:
        return False
    _write(draft / "game.tw-pddl", {**game, "solvable": True, "walkthrough": walkthrough})
    return True


def certify(file: Path) -> list[str] | None:
    """Replays the plan of a game on the engine and returns it; None if its last command does not win."""
    game = Game(file)
    try:
        game.reset()
        commands = plan(read_goal(file), game.layout())
        won = [game.step(command).won for command in commands]
    finally:
        game.close()
    return commands if won[-1] and not any(won[:-1]) else None


def _about(scenario: Scenario, name: str) -> dict[str, Any]:
    return {
        "task_id": name,
        "task_type": scenario.family,
        "pddl_params": {
            "object_target": scenario.target,
            "parent_target": scenario.parent,
            "toggle_target": scenario.lamp,
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {"floor_plan": f"FloorPlan{scenario.room.scene}", "scene_num": scenario.room.scene},
        "turk_annotations": {"anns": [{"task_desc": scenario.description}]},
        "built_by": "stepcredit alfworld build",
    }


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
