"""The floor plans that the package ships: all of them load, every receptacle can be reached, splits are apart."""

import json
from collections import Counter

import pytest

from stepcredit.tasks.alfworld.installation import shipped
from stepcredit.tasks.alfworld.rooms import _free, load_room, scenes

KITCHENS, LIVING_ROOMS = list(range(1, 31)), list(range(201, 231))
BEDROOMS, BATHROOMS = list(range(301, 331)), list(range(401, 431))
SCENES = [*KITCHENS, *LIVING_ROOMS, *BEDROOMS, *BATHROOMS]


@pytest.fixture(scope="module")
def rooms():
    return {scene: load_room(scene) for scene in SCENES}


def test_every_floor_plan_loads_and_is_of_its_kind(rooms):
    assert Counter(room.kind for room in rooms.values()) == {
        "Kitchen": 30,
        "LivingRoom": 30,
        "Bedroom": 30,
        "Bathroom": 30,
    }
    for scene, room in rooms.items():
        assert room.scene == scene
        assert len(room.receptacles) >= 2
        assert room.object_kinds == tuple(sorted(set(room.object_kinds)))
    assert {rooms[s].kind for s in BEDROOMS} == {"Bedroom"}
    assert load_room(7) == rooms[7]


def test_no_two_receptacles_share_a_pose_or_an_id(rooms):
    for room in rooms.values():
        for of in ("pose", "id"):
            assert len({getattr(r, of) for r in room.receptacles}) == len(room.receptacles), (room.scene, of)


def test_poses_are_the_floor_plans_and_only_the_look_gives_way(rooms):
    moved = 0
    for scene, room in rooms.items():
        plan = json.loads(shipped("gen", "layouts", f"FloorPlan{scene}-openable.json").read_text())
        for r in room.receptacles:
            id = r.id if r.id in plan else r.id.rpartition("|")[0]
            x, z, rotation, look = plan[id]
            assert (r.pose[0] / 4, r.pose[1] / 4, r.pose[2] * 90) == pytest.approx((x, z, rotation), abs=0.13)
            assert 0 <= r.pose[3] - look < len(room.receptacles)
            moved += r.pose[3] != look
    assert moved > 0  # else nothing would be known of the shared ones


@pytest.mark.parametrize(
    ("taken", "free"),
    [
        (set(), (1, 2, 3, 30)),
        ({(1, 2, 3, 31)}, (1, 2, 3, 30)),
        ({(1, 2, 3, 30)}, (1, 2, 3, 31)),
        ({(1, 2, 3, 30), (1, 2, 3, 31), (1, 2, 2, 32)}, (1, 2, 3, 32)),
    ],
)
def test_the_nearest_free_look(taken, free):
    assert _free((1, 2, 3, 30), taken) == free


def test_basins_keep_the_suffix_by_which_the_engine_names_them(rooms):
    basins = [r for room in rooms.values() for r in room.receptacles if r.kind.endswith("Basin")]
    assert {r.kind for r in basins} == {"SinkBasin", "BathtubBasin"}
    for r in basins:
        assert r.id.endswith(f"|{r.kind}")
        assert not r.id.endswith(f"|{r.kind}|{r.kind}")
    others = [r for room in rooms.values() for r in room.receptacles if not r.kind.endswith("Basin")]
    assert all(r.id.split("|")[0] == r.kind and "Basin" not in r.id for r in others)
    assert all(any(r.kind == "SinkBasin" for r in rooms[s].receptacles) for s in KITCHENS)


def test_what_starts_closed_and_what_holds_what(rooms):
    kinds = {(r.kind, r.openable) for room in rooms.values() for r in room.receptacles}
    assert {kind for kind, openable in kinds if openable} == {"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"}
    assert len({kind for kind, _ in kinds}) == len(kinds)
    assert {"CounterTop", "Shelf", "SinkBasin", "Desk", "Bed", "Toilet"} < {kind for kind, _ in kinds}
    kitchen = rooms[7]
    holders = {r.kind for r in kitchen.holders("Egg")}
    assert {"Fridge", "Microwave", "SinkBasin"} <= holders
    assert not holders & {"Drawer", "Cabinet", "Shelf"}
    assert kitchen.holders("Unicorn") == []


def test_the_published_splits():
    train, seen, unseen = scenes("train"), scenes("valid_seen"), scenes("valid_unseen")
    assert train == seen
    assert len(train) == 96
    assert sorted(unseen) == [*range(1, 7), *range(201, 207), *range(301, 307), *range(401, 407)]
    assert sorted(train + unseen) == SCENES
