"""Scenario of a built game: a family of tasks, a room, and the positions of its objects; sampled from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepcredit.tasks.alfworld.installation import alfworld_module
from stepcredit.tasks.alfworld.rooms import Pose, Receptacle, Room

FAMILIES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
LAMP = "DeskLamp"

_ACTION = {
    "pick_clean_then_place_in_recep": ("Cleanable", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("Heatable", "Microwave"),
    "pick_cool_then_place_in_recep": ("Coolable", "Fridge"),
}
"""Family → (required property of the target, kind of the receptacle for the action)."""

_OTHERS = 12
"""Maximum number of kinds of objects besides the target's."""


@dataclass(frozen=True)
class Placed:
    """An object and the receptacle it starts in."""

    id: str
    kind: str
    receptacle: Receptacle


@dataclass(frozen=True)
class Scenario:
    """A scenario, before it is written as a game.

    Attributes:
        family: one of `FAMILIES`.
        room: the room.
        target: kind of the target object.
        parent: kind of the receptacle for the target; empty for `look_at_obj_in_light`.
        description: the task in words.
        placed: all objects.
        start: the agent's first pose.
    """

    family: str
    room: Room
    target: str
    parent: str
    description: str
    placed: tuple[Placed, ...]
    start: Pose

    @property
    def lamp(self) -> str:
        """The kind of lamp that the task needs, or empty."""
        return LAMP if self.family == "look_at_obj_in_light" else ""


def draw_scenario(family: str, rooms: Sequence[Room], rng: np.random.Generator) -> Scenario:
    """Samples a scenario of a family in one of the rooms, until one is feasible.

    The initial position of the target does not solve the task. The room has one or two objects of its kind, two or
    three for `pick_two_obj_and_place`.
    """
    fitting = [room for room in rooms if _asks(family, room)]
    while True:
        room = fitting[rng.integers(len(fitting))]
        asks = _asks(family, room)
        target, parent = asks[rng.integers(len(asks))]
        placed = _place(family, room, target, parent, rng)
        if placed is not None:
            return Scenario(family, room, target, parent, _describe(family, target, parent, rng), placed, _start(room))


def _asks(family: str, room: Room) -> list[tuple[str, str]]:
    """The possible (target, parent) pairs of a family in a room."""
    constants = alfworld_module("alfworld.gen.constants")
    if room.kind not in constants.GOALS_VALID[family]:
        return []
    kinds = {r.kind for r in room.receptacles}
    action, station = _ACTION.get(family, ("", None))
    if station is not None and station not in kinds:
        return []
    targets = [k for k in _movable(room) if not action or k in constants.VAL_ACTION_OBJECTS[action]]
    targets = [k for k in targets if len(room.holders(k)) >= 2]
    if family == "look_at_obj_in_light":
        return [(k, "") for k in targets] if LAMP in room.object_kinds and room.holders_of_lamp() else []
    return [(k, p) for k in targets for p in sorted({r.kind for r in room.holders(k)}) if p != station]


def _movable(room: Room) -> list[str]:
    """Kinds of the room's objects that fit into one of its receptacles."""
    return [kind for kind in room.object_kinds if room.holders(kind) and kind != "Box"]


def _place(family: str, room: Room, target: str, parent: str, rng: np.random.Generator) -> tuple[Placed, ...] | None:
    """Places all objects of a game; None if the target has no position outside its goal and its station."""
    station = _ACTION.get(family, ("", ""))[1]
    outside = [r for r in room.holders(target) if r.kind not in (parent, station)]
    if not outside:
        return None
    two = family == "pick_two_obj_and_place"
    candidates = [(target, outside)] * int(rng.integers(2, 4) if two else rng.integers(1, 3))
    if family == "look_at_obj_in_light":
        candidates.append((LAMP, room.holders_of_lamp()))
    others = [kind for kind in _movable(room) if kind != target]
    for kind in rng.permutation(others)[:_OTHERS].tolist():
        candidates += [(kind, room.holders(kind))] * int(rng.integers(1, 3))
    placed = []
    for number, (kind, holders) in enumerate(candidates):
        receptacle = holders[rng.integers(len(holders))]
        placed.append(Placed(f"{kind}|{number:+06.2f}|+00.00|+00.00", kind, receptacle))
    return tuple(placed)


def _describe(family: str, target: str, parent: str, rng: np.random.Generator) -> str:
    templates = alfworld_module("alfworld.gen.goal_library").gdict[family]["templates"]
    template: str = templates[rng.integers(len(templates))]
    return template.format(obj=target.lower(), recep=parent.lower(), toggle=LAMP.lower(), mrecep="")


def _start(room: Room) -> Pose:
    """A pose from which no receptacle is reached."""
    poses = {r.pose for r in room.receptacles}
    x, z, turns, look = next(iter(sorted(poses)))
    while (x, z, turns, look) in poses:
        look += 1
    return x, z, turns, look
