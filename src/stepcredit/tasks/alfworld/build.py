"""Games built from the floor plans that the alfworld package ships, each certified by winning it on the engine.

They are laid out as the published ones are, so that stock ALFWorld plays them; scores on them are not comparable with
published scores, for where the objects lie is drawn here.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from stepcredit.tasks.alfworld.alfworld_task import GAMES
from stepcredit.tasks.alfworld.game import Game
from stepcredit.tasks.alfworld.installation import shipped
from stepcredit.tasks.alfworld.pddl import pddl_problem
from stepcredit.tasks.alfworld.plan import plan, read_goal
from stepcredit.tasks.alfworld.rooms import Room, load_room, scenes
from stepcredit.tasks.alfworld.scenario import FAMILIES, Scenario, draw_scenario

_ATTEMPTS = 20


@dataclass(frozen=True)
class Wanted:
    """One game to be built: number `number` of a split; the family goes round."""

    root: Path
    split: str
    number: int
    seed: int

    @property
    def family(self) -> str:
        """Its family."""
        return FAMILIES[self.number % len(FAMILIES)]


@dataclass(frozen=True)
class Built:
    """A game that stands: its file, and how often another one had been drawn before because it could not be won."""

    file: Path
    rejected: int
    was_there: bool


def wanted_games(root: Path, counts: Mapping[str, int], seed: int) -> list[Wanted]:
    """All games of a build: `counts[split]` of each split."""
    return [Wanted(root, split, number, seed) for split, count in counts.items() for number in range(count)]


def build_games(wanted: list[Wanted], workers: int) -> Iterator[Built]:
    """Builds what is not there yet, each game whole or not at all.

    Args:
        wanted: from `wanted_games`, all under one root.
        workers: processes.
    """
    for root in {w.root for w in wanted}:
        (root / "logic").mkdir(parents=True, exist_ok=True)
        for name in ("alfred.pddl", "alfred.twl2"):
            shutil.copyfile(shipped("data", name), root / "logic" / name)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(build_game, wanted, chunksize=4)


def build_game(wanted: Wanted) -> Built:
    """One game: drawn, written, certified.

    Raises:
        RuntimeError: none of many draws could be won.
    """
    for attempt in range(_ATTEMPTS):
        key = [wanted.seed, zlib.crc32(wanted.split.encode()), wanted.number, attempt]
        rng = np.random.default_rng(key)
        scenario = draw_scenario(wanted.family, _rooms(wanted.split), rng)
        kind = f"{scenario.family}-{scenario.target}-None-{scenario.parent or scenario.lamp}-{scenario.room.scene}"
        folder = wanted.root / GAMES / wanted.split / kind / f"trial_T{wanted.seed:03d}{wanted.number:06d}"
        if (folder / "game.tw-pddl").exists():
            return Built(folder / "game.tw-pddl", attempt, was_there=True)
        if _write_certified(scenario, folder):
            return Built(folder / "game.tw-pddl", attempt, was_there=False)
    raise RuntimeError(f"{_ATTEMPTS} draws of game {wanted.number} of {wanted.split} could not be won")


@cache
def _rooms(split: str) -> tuple[Room, ...]:
    return tuple(load_room(scene) for scene in scenes(split))


def _write_certified(scenario: Scenario, folder: Path) -> bool:
    """Whether the game could be won; then it stands in its folder. A draft lies where no loader looks for games."""
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
    """Writes a game into a folder; whether it could be won."""
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
    """The plan that wins a game, replayed on the engine; None where it does not win with its last command."""
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
