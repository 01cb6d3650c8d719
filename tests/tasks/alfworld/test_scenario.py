"""Scenarios drawn from seeds: solvable as far as one can see without an engine, and equal for equal seeds."""

import re

import numpy as np
import pytest

from stepcredit.tasks.alfworld.installation import alfworld_module
from stepcredit.tasks.alfworld.pddl import escaped, pddl_problem
from stepcredit.tasks.alfworld.rooms import load_room, scenes
from stepcredit.tasks.alfworld.scenario import FAMILIES, draw_scenario

SEEDS = 20
STATION = {
    "pick_clean_then_place_in_recep": ("SinkBasin", "Cleanable", r"clean"),
    "pick_heat_then_place_in_recep": ("Microwave", "Heatable", r"hot|heat"),
    "pick_cool_then_place_in_recep": ("Fridge", "Coolable", r"cool"),
}


@pytest.fixture(scope="module")
def rooms():
    return tuple(load_room(scene) for scene in scenes("valid_unseen"))


@pytest.fixture(scope="module")
def constants():
    return alfworld_module("alfworld.gen.constants")


@pytest.fixture(scope="module", params=FAMILIES)
def drawn(request, rooms):
    return [draw_scenario(request.param, rooms, np.random.default_rng(seed)) for seed in range(SEEDS)]


def test_the_target_is_somewhere_and_must_be_brought(drawn, constants):
    for s in drawn:
        own = [p for p in s.placed if p.kind == s.target]
        assert len(own) in ((2, 3) if s.family == "pick_two_obj_and_place" else (1, 2))
        for p in own:
            assert p.receptacle.kind not in (s.parent, STATION.get(s.family, (None,))[0])
        assert s.target not in constants.VAL_ACTION_OBJECTS["Toggleable"]  # the engine would not let go of it


def test_the_goal_can_be_reached_in_this_room(drawn, rooms, constants):
    for s in drawn:
        kinds = {r.kind for r in s.room.receptacles}
        assert s.room in rooms
        assert s.room.kind in constants.GOALS_VALID[s.family]
        if s.parent:
            assert s.parent in kinds
            assert s.target in constants.VAL_RECEPTACLE_OBJECTS[s.parent]
        assert (s.parent == "") == (s.family == "look_at_obj_in_light")
        station, ability, _ = STATION.get(s.family, (None, None, None))
        if station is not None:
            assert station in kinds
            assert station != s.parent
            assert s.target in constants.VAL_ACTION_OBJECTS[ability]


def test_objects_lie_where_they_may(drawn, constants):
    for s in drawn:
        assert len({p.id for p in s.placed}) == len(s.placed)
        for p in s.placed:
            assert p.receptacle in s.room.receptacles
            assert p.kind == p.id.split("|")[0]
            if p.kind != "DeskLamp":
                assert p.kind in constants.VAL_RECEPTACLE_OBJECTS[p.receptacle.kind]


def test_a_lamp_stands_on_something_where_one_is_needed(drawn):
    for s in drawn:
        lamps = [p for p in s.placed if p.kind == "DeskLamp"]
        if s.family == "look_at_obj_in_light":
            assert [p.receptacle.kind in ("Desk", "Dresser", "SideTable", "Shelf") for p in lamps] == [True]
            assert s.lamp == "DeskLamp"
        else:
            assert s.lamp == ""


def test_the_agent_starts_away_from_every_receptacle(drawn):
    for s in drawn:
        assert s.start not in {r.pose for r in s.room.receptacles}


def test_the_task_in_words(drawn):
    for s in drawn:
        assert "{" not in s.description
        assert re.search(rf"\b{s.target.lower()}\b", s.description)
        assert (s.parent or s.lamp).lower() in s.description
        word = {"pick_two_obj_and_place": "two", "look_at_obj_in_light": "look|examine"}.get(s.family, "")
        assert re.search(STATION.get(s.family, ("", "", word))[2], s.description)


def test_equal_seeds_equal_scenarios_and_other_seeds_others(drawn, rooms):
    family = drawn[0].family
    again = [draw_scenario(family, rooms, np.random.default_rng(seed)) for seed in range(5)]
    assert again == drawn[:5]
    assert len({s.placed for s in drawn}) == SEEDS
    assert len({(s.room.scene, s.target, s.parent) for s in drawn}) > 8
    assert len({s.description.replace(s.target.lower(), "") for s in drawn}) > 1


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("Mug|+00.10|-01.20|+03.00", "Mug_bar__plus_00_dot_10_bar__minus_01_dot_20_bar__plus_03_dot_00"),
        ("loc|-1|2|0|-30", "loc_bar__minus_1_bar_2_bar_0_bar__minus_30"),
        ("a,b", "a_comma_b"),
    ],
)
def test_names_in_pddl(id, name):
    assert escaped(id) == name


def test_the_problem_declares_what_it_uses(drawn):
    for s in drawn[:6]:
        problem = pddl_problem(s, "trial")
        head, goal = problem.split("(:goal")
        declared_text, init = head.split("(:objects")[1].split("(:init")
        declared = re.findall(r"(\S+) - (agent|object|otype|rtype|receptacle|location)\n", declared_text)
        names = [name for name, _ in declared]
        assert len(set(declared)) == len(declared)
        facts = [f.split() for f in re.findall(r"\(([^()=]+)\)", init) if f != "total-cost"]
        assert {a for _, *of in facts for a in of} <= set(names)
        assert {"KnifeType", "ButterKnifeType", "SinkBasinType", "MicrowaveType", "FridgeType"} <= set(names)
        assert set(re.findall(r"\w+Type\b", goal)) - {"objectType", "receptacleType"} <= set(names)
        by_predicate = {}
        for predicate, *of in facts:
            by_predicate.setdefault(predicate, []).append(tuple(of))
        assert by_predicate["inReceptacle"] == [(escaped(p.id), escaped(p.receptacle.id)) for p in s.placed]
        assert len(by_predicate["atLocation"]) == 1
        agent, start = by_predicate["atLocation"][0]
        reached = dict(by_predicate["receptacleAtLocation"])
        assert agent == "agent1"
        assert len(reached) == len(set(reached.values())) == len(s.room.receptacles)
        assert start not in reached.values()
        for o, at in by_predicate["objectAtLocation"]:
            assert at == reached[dict(by_predicate["inReceptacle"])[o]]
        assert {o for (o,) in by_predicate.get("isCool", [])} == {
            escaped(p.id) for p in s.placed if p.receptacle.kind == "Fridge"
        }
        assert {o for (o,) in by_predicate["pickupable"]} == {escaped(p.id) for p in s.placed if p.kind != "DeskLamp"}
        assert "#" not in goal
        assert "{" not in goal
        assert problem.count("(") == problem.count(")")
