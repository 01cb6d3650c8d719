"""What a built game is about: a family of tasks, a room, and where its objects lie; drawn from a seed."""

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
"""Family → (what the target must be, the receptacle that does it)."""

_OTHERS = 12
"""Objects beside the target and its like, at most."""


@dataclass(frozen=True)
class Placed:
    """An object and the receptacle it starts in."""

    id: str
    kind: str
    receptacle: Receptacle


@dataclass(frozen=True)
class Scenario:
    """A game before it is written.

    Attributes:
        family: one of `FAMILIES`.
        room: where it is played.
        target: kind of the object that is asked for.
        parent: kind of the receptacle it must go into; empty for `look_at_obj_in_light`.
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
        """The lamp that the task asks for, or nothing."""
        return LAMP if self.family == "look_at_obj_in_light" else ""


def draw_scenario(family: str, rooms: Sequence[Room], rng: np.random.Generator) -> Scenario:
    """A game of a family in one of some rooms; draws until one fits.

    The target starts where it does not fulfil the task yet; one or two of its kind are in the room, two or three for
    `pick_two_obj_and_place`.
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
    """(target, parent) that a family can ask for in a room."""
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
    """Kinds of the room's objects that have a place to lie in it."""
    return [kind for kind in room.object_kinds if room.holders(kind) and kind != "Box"]


def _place(family: str, room: Room, target: str, parent: str, rng: np.random.Generator) -> tuple[Placed, ...] | None:
    """All objects of a game, or None where the target has no place outside its goal and its station."""
    station = _ACTION.get(family, ("", ""))[1]
    outside = [r for r in room.holders(target) if r.kind not in (parent, station)]
    if not outside:
        return None
    two = family == "pick_two_obj_and_place"
    wanted = [(target, outside)] * int(rng.integers(2, 4) if two else rng.integers(1, 3))
    if family == "look_at_obj_in_light":
        wanted.append((LAMP, room.holders_of_lamp()))
    others = [kind for kind in _movable(room) if kind != target]
    for kind in rng.permutation(others)[:_OTHERS].tolist():
        wanted += [(kind, room.holders(kind))] * int(rng.integers(1, 3))
    placed = []
    for number, (kind, holders) in enumerate(wanted):
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
