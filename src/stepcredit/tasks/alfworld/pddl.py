"""Conversion of a scenario to PDDL (domain `alfred`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stepcredit.tasks.alfworld.installation import alfworld_module
from stepcredit.tasks.alfworld.rooms import Pose
from stepcredit.tasks.alfworld.scenario import Scenario

_ESCAPES = (("|", "_bar_"), ("-", "_minus_"), ("+", "_plus_"), (".", "_dot_"), (",", "_comma_"))
_ALWAYS_OBJECT_KINDS = ("Knife", "ButterKnife")
_ALWAYS_RECEPTACLE_KINDS = ("SinkBasin", "Microwave", "Fridge")
"""Kinds that the domain's actions mention; they must be declared even if the room has none."""


def escaped(id: str) -> str:
    """An AI2-THOR id as a PDDL name."""
    for sign, name in _ESCAPES:
        id = id.replace(sign, name)
    return id


def location(pose: Pose) -> str:
    """The PDDL name of a pose."""
    return escaped("loc|" + "|".join(str(number) for number in pose))


def pddl_problem(scenario: Scenario, name: str) -> str:
    """The whole PDDL problem: objects, initial state, goal."""
    goal = alfworld_module("alfworld.gen.goal_library").gdict[scenario.family]["pddl"]
    goal = goal.format(obj=scenario.target, recep=scenario.parent, toggle=scenario.lamp, mrecep="")
    objects = "\n        ".join(_objects(scenario))
    facts = "\n        ".join(_facts(scenario))
    return (
        f"(define (problem {escaped(name)})\n    (:domain alfred)\n"
        f"    (:objects\n        {objects}\n    )\n"
        f"    (:init\n        (= (total-cost) 0)\n        {facts}\n    )\n{goal.replace('#', '-')}"
    )


def _object_kinds(scenario: Scenario) -> list[str]:
    return sorted({*(p.kind for p in scenario.placed), scenario.target, *_ALWAYS_OBJECT_KINDS})


def _receptacle_kinds(scenario: Scenario) -> list[str]:
    return sorted({*(r.kind for r in scenario.room.receptacles), *_ALWAYS_RECEPTACLE_KINDS})


def _objects(scenario: Scenario) -> Iterator[str]:
    yield "agent1 - agent"
    yield "Apple - object"
    yield from (f"{kind}Type - otype" for kind in _object_kinds(scenario))
    yield from (f"{kind}Type - rtype" for kind in _receptacle_kinds(scenario))
    yield from (f"{escaped(p.id)} - object" for p in scenario.placed)
    yield from (f"{escaped(r.id)} - receptacle" for r in scenario.room.receptacles)
    poses = [*sorted(r.pose for r in scenario.room.receptacles), scenario.start]
    yield from (f"{location(pose)} - location" for pose in poses)


def _facts(scenario: Scenario) -> Iterable[str]:
    constants = alfworld_module("alfworld.gen.constants")
    yield f"(atLocation agent1 {location(scenario.start)})"
    for r in scenario.room.receptacles:
        yield f"(receptacleType {escaped(r.id)} {r.kind}Type)"
        yield f"(receptacleAtLocation {escaped(r.id)} {location(r.pose)})"
        if r.openable:
            yield f"(openable {escaped(r.id)})"
    for receptacle_kind in _receptacle_kinds(scenario):
        holds = constants.VAL_RECEPTACLE_OBJECTS.get(receptacle_kind, ())
        yield from (
            f"(canContain {receptacle_kind}Type {kind}Type)" for kind in _object_kinds(scenario) if kind in holds
        )
    for p in scenario.placed:
        yield from (f"({fact})" for fact in _facts_of_object(scenario, escaped(p.id), p.kind))
        yield f"(inReceptacle {escaped(p.id)} {escaped(p.receptacle.id)})"
        yield f"(objectAtLocation {escaped(p.id)} {location(p.receptacle.pose)})"
        if p.receptacle.kind == "Fridge":
            yield f"(isCool {escaped(p.id)})"


def _facts_of_object(scenario: Scenario, name: str, kind: str) -> Iterator[str]:
    constants = alfworld_module("alfworld.gen.constants")
    yield f"objectType {name} {kind}Type"
    if kind not in constants.VAL_ACTION_OBJECTS["Toggleable"]:
        yield f"pickupable {name}"
    if kind in constants.MOVABLE_RECEPTACLES_SET:
        yield f"isReceptacleObject {name}"
    for fact in ("Cleanable", "Heatable", "Coolable", "Toggleable", "Sliceable"):
        if kind in constants.VAL_ACTION_OBJECTS[fact]:
            yield f"{fact.lower()} {name}"
