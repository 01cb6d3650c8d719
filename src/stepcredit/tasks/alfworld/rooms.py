"""Rooms: AI2-THOR floor plans of the alfworld package with their receptacles and poses, and the rooms of each split."""

from __future__ import annotations

import json
from dataclasses import dataclass

from stepcredit.tasks.alfworld.installation import alfworld_module, shipped

Pose = tuple[int, int, int, int]
"""Pose of the agent: x and z in units of 0.25 m, rotation in quarter turns, horizon in degrees."""


@dataclass(frozen=True)
class Receptacle:
    """A receptacle for objects.

    Attributes:
        id: the AI2-THOR id, for example `Sink|-01.90|+00.97|-01.50|SinkBasin`.
        kind: the kind, for example `SinkBasin`.
        pose: the pose from which it is reached, unique within a room.
        openable: whether it is closed initially.
    """

    id: str
    kind: str
    pose: Pose
    openable: bool


@dataclass(frozen=True)
class Room:
    """A floor plan: its AI2-THOR scene number, the kind of room, its receptacles and the kinds of its objects."""

    scene: int
    kind: str
    receptacles: tuple[Receptacle, ...]
    object_kinds: tuple[str, ...]

    def holders(self, object_kind: str) -> list[Receptacle]:
        """The receptacles that can hold an object of a kind."""
        allowed = alfworld_module("alfworld.gen.constants").VAL_RECEPTACLE_OBJECTS
        return [r for r in self.receptacles if object_kind in allowed.get(r.kind, ())]

    def holders_of_lamp(self) -> list[Receptacle]:
        """The receptacles on which a desk lamp can stand."""
        return [r for r in self.receptacles if r.kind in ("Desk", "Dresser", "SideTable", "Shelf")]


def scenes(split: str) -> list[int]:
    """The floor plans of a split, as in the published games: 96 for training and `valid_seen`, 24 different ones for
    `valid_unseen`."""
    constants = alfworld_module("alfworld.gen.constants")
    return list(constants.TEST_SCENE_NUMBERS if split == "valid_unseen" else constants.TRAIN_SCENE_NUMBERS)


def load_room(scene: int) -> Room:
    """Loads a floor plan.

    The engine answers "Nothing happens." if two receptacles share a pose, so the second one is moved to the nearest
    free horizon.
    """
    constants = alfworld_module("alfworld.gen.constants")
    layout = shipped("gen", "layouts")
    poses = json.loads((layout / f"FloorPlan{scene}-openable.json").read_text(encoding="utf-8"))
    kinds = json.loads((layout / f"FloorPlan{scene}-objects.json").read_text(encoding="utf-8"))
    taken: set[Pose] = set()
    receptacles = []
    for id, where in sorted(poses.items()):
        kind = id.split("|")[0]
        kind = f"{kind}Basin" if kind in ("Sink", "Bathtub") else kind
        if kind not in constants.VAL_RECEPTACLE_OBJECTS:
            continue
        x, z, rotation, horizon = where
        pose = _free((round(x * 4), round(z * 4), round(rotation / 90), round(horizon)), taken)
        taken.add(pose)
        if kind.endswith("Basin") and not id.endswith(kind):  # the engine names a basin by the suffix of its id
            id = f"{id}|{kind}"
        receptacles.append(Receptacle(id, kind, pose, kind in constants.OPENABLE_CLASS_LIST))
    room_kind = next(name for name, numbers in constants.SCENE_TYPE.items() if scene in numbers)
    return Room(scene, room_kind, tuple(receptacles), tuple(sorted(kinds)))


def _free(pose: Pose, taken: set[Pose]) -> Pose:
    while pose in taken:
        pose = (*pose[:3], pose[3] + 1)
    return pose
