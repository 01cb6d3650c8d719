"""Plans, worked by hand."""

import json

import pytest

from stepcredit.tasks.alfworld.plan import Goal, Layout, kind_of, plan, read_goal

LAYOUT = Layout(
    receptacles=("cabinet 1", "cabinet 2", "desk 1", "fridge 1", "microwave 1", "shelf 1", "shelf 2", "sinkbasin 1"),
    openable=frozenset({"cabinet 1", "cabinet 2", "fridge 1", "microwave 1"}),
    where={
        "mug 1": "cabinet 2",
        "pan 1": "shelf 1",
        "mug 2": "cabinet 2",
        "cup 2": "desk 1",
        "cup 1": "shelf 1",
        "cup 3": "fridge 1",
        "desklamp 1": "desk 1",
    },
)
GET_MUG = ["go to cabinet 2", "open cabinet 2", "take mug 1 from cabinet 2"]
PAN = ["go to shelf 1", "take pan 1 from shelf 1"]
CUP_1, CUP_2 = ["go to shelf 1", "take cup 1 from shelf 1"], ["go to desk 1", "take cup 2 from desk 1"]


@pytest.mark.parametrize(
    ("family", "target", "parent", "commands"),
    [
        ("pick_and_place_simple", "mug", "shelf", [*GET_MUG, "go to shelf 1", "move mug 1 to shelf 1"]),
        ("pick_and_place_simple", "pan", "cabinet",
         [*PAN, "go to cabinet 1", "open cabinet 1", "move pan 1 to cabinet 1"]),
        ("pick_clean_then_place_in_recep", "mug", "fridge",
         [*GET_MUG, "go to sinkbasin 1", "clean mug 1 with sinkbasin 1",
          "go to fridge 1", "open fridge 1", "move mug 1 to fridge 1"]),
        ("pick_heat_then_place_in_recep", "mug", "shelf",
         [*GET_MUG, "go to microwave 1", "heat mug 1 with microwave 1", "go to shelf 1", "move mug 1 to shelf 1"]),
        ("pick_cool_then_place_in_recep", "pan", "desk",
         [*PAN, "go to fridge 1", "cool pan 1 with fridge 1", "go to desk 1", "move pan 1 to desk 1"]),
        # the cabinets are opened once, and a third cup stays where it is
        ("pick_two_obj_and_place", "mug", "cabinet",
         [*GET_MUG, "go to cabinet 1", "open cabinet 1", "move mug 1 to cabinet 1",
          "go to cabinet 2", "take mug 2 from cabinet 2", "go to cabinet 1", "move mug 2 to cabinet 1"]),
        ("pick_two_obj_and_place", "cup", "sinkbasin",
         [*CUP_1, "go to sinkbasin 1", "move cup 1 to sinkbasin 1",
          *CUP_2, "go to sinkbasin 1", "move cup 2 to sinkbasin 1"]),
    ],
)  # fmt: skip
def test_plans_by_hand(family, target, parent, commands):
    assert plan(Goal(family, target, parent, ""), LAYOUT) == commands


def test_under_the_lamp_by_hand():
    goal = Goal("look_at_obj_in_light", "mug", "", "desklamp")
    assert plan(goal, LAYOUT) == [*GET_MUG, "go to desk 1", "use desklamp 1"]


def test_another_parent_of_the_same_kind():
    goal = Goal("pick_and_place_simple", "pan", "shelf", "")
    assert plan(goal, LAYOUT, "shelf 2") == [*PAN, "go to shelf 2", "move pan 1 to shelf 2"]


@pytest.mark.parametrize(("name", "kind"), [("mug 1", "mug"), ("sinkbasin 12", "sinkbasin"), ("shelf 3", "shelf")])
def test_kinds(name, kind):
    assert kind_of(name) == kind


def test_of_kind_takes_the_whole_kind():
    layout = Layout(("shelf 1", "bookshelf 1", "shelfling 1"), frozenset(), {})
    assert layout.of_kind("shelf", layout.receptacles) == ["shelf 1"]


def test_the_goal_is_read_beside_the_game(tmp_path):
    params = {"object_target": "ButterKnife", "parent_target": "SinkBasin", "toggle_target": "", "mrecep_target": ""}
    about = {"task_type": "pick_two_obj_and_place", "pddl_params": params}
    (tmp_path / "traj_data.json").write_text(json.dumps(about))
    assert read_goal(tmp_path / "game.tw-pddl") == Goal("pick_two_obj_and_place", "butterknife", "sinkbasin", "")
