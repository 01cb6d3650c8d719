"""Plans that win a game, given the positions of all objects; used to certify games and by the demonstrators."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.tasks.alfworld.scenario import FAMILIES

STATIONS = {
    "pick_clean_then_place_in_recep": ("clean", "sinkbasin"),
    "pick_heat_then_place_in_recep": ("heat", "microwave"),
    "pick_cool_then_place_in_recep": ("cool", "fridge"),
}
"""Family → (verb, kind of the receptacle that does it)."""


@dataclass(frozen=True)
class Goal:
    """The goal of a game, with kinds in the engine's spelling ("mug").

    Attributes:
        family: one of `FAMILIES`.
        target: kind of the object.
        parent: kind of the receptacle, or empty.
        lamp: kind of the lamp to look under, or empty.
    """

    family: str
    target: str
    parent: str
    lamp: str


@dataclass(frozen=True)
class Layout:
    """The initial positions of all objects, with the engine's names ("mug 1").

    Attributes:
        receptacles: all receptacles.
        openable: receptacles that are closed initially.
        where: object → receptacle.
    """

    receptacles: tuple[str, ...]
    openable: frozenset[str]
    where: Mapping[str, str]

    def of_kind(self, kind: str, names: Iterable[str]) -> list[str]:
        """The names of a kind, in order."""
        return sorted(name for name in names if kind_of(name) == kind)


def kind_of(name: str) -> str:
    """ "mug" of "mug 1"."""
    return name.rsplit(" ", 1)[0]


def read_goal(game_file: Path) -> Goal:
    """Reads the goal of a game from the `traj_data.json` next to it."""
    data = json.loads((game_file.parent / "traj_data.json").read_text(encoding="utf-8"))
    params: dict[str, Any] = data["pddl_params"]
    target, parent, lamp = (params[k].lower() for k in ("object_target", "parent_target", "toggle_target"))
    return Goal(data["task_type"], target, parent, lamp)


def arrive(layout: Layout, place: str, opened: Iterable[str] = ()) -> list[str]:
    """The commands to go to a receptacle and open it if it is closed."""
    opening = [f"open {place}"] if place in layout.openable and place not in opened else []
    return [f"go to {place}", *opening]


def plan(goal: Goal, layout: Layout, parent: str | None = None) -> list[str]:
    """Returns the commands that win a game.

    Args:
        goal: the goal.
        layout: the initial positions.
        parent: the receptacle of the parent's kind to use; None is the first.
    """
    assert goal.family in FAMILIES
    targets = layout.of_kind(goal.target, layout.where)
    if goal.lamp:
        lamp = layout.of_kind(goal.lamp, layout.where)[0]
        target, place = targets[0], layout.where[targets[0]]
        fetch = [*arrive(layout, place), f"take {target} from {place}"]
        return [*fetch, f"go to {layout.where[lamp]}", f"use {lamp}"]
    goal_place = parent or layout.of_kind(goal.parent, layout.receptacles)[0]
    opened: set[str] = set()
    commands: list[str] = []
    for target in targets[: 2 if goal.family == "pick_two_obj_and_place" else 1]:
        commands += [*arrive(layout, layout.where[target], opened), f"take {target} from {layout.where[target]}"]
        opened.add(layout.where[target])
        if goal.family in STATIONS:
            verb, station_kind = STATIONS[goal.family]
            station = layout.of_kind(station_kind, layout.receptacles)[0]
            commands += [f"go to {station}", f"{verb} {target} with {station}"]
        commands += [*arrive(layout, goal_place, opened), f"move {target} to {goal_place}"]
        opened.add(goal_place)
    return commands
