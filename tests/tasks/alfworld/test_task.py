"""The task `alfworld`: which games, in which order, and how one is played as a conversation."""

import copy
import dataclasses
import json
import os
import pickle
import shutil

import pytest

from stepcredit.errors import InputError
from stepcredit.tasks.alfworld.alfworld_task import ALFWorld
from stepcredit.tasks.alfworld.game import Game
from stepcredit.tasks.alfworld.installation import DATA, alfworld_module
from stepcredit.tasks.alfworld.scenario import FAMILIES
from stepcredit.tasks.environment import Environment, InteractiveTask


def listed(root, name, trial="trial_T1", split="train", family=FAMILIES[0], **game):
    """A folder as the loader sees it; nobody plays it."""
    folder = root / "json_2.1.1" / split / name / trial
    folder.mkdir(parents=True)
    (folder / "traj_data.json").write_text(json.dumps({"task_type": family, "pddl_params": {}}))
    (folder / "game.tw-pddl").write_text(json.dumps(game if game else {"solvable": True}))


NAMES = [f"{FAMILIES[k % 6]}-Mug-None-Shelf-{scene}" for k, scene in enumerate((7, 21, 8, 210, 330, 425, 9, 10))]


@pytest.fixture
def many(tmp_path):
    for name in NAMES:
        listed(tmp_path, name)
        listed(tmp_path, name, "trial_T2")
    return tmp_path


def ids(problems):
    return [p.prompt_id for p in problems]


def spoken(command):
    return f"Thought: x\nAction: {command}"


def test_it_is_an_interactive_task(task):
    assert isinstance(task, InteractiveTask)
    assert isinstance(task.environment(), Environment)
    assert (task.name, task.max_turns, task.step_delimiters, task.stop) == ("alfworld", 40, (), ())


def test_the_problems_of_built_games(task, root):
    problems = task.problems("train")
    assert len(set(ids(problems))) == len(problems) == 6
    assert {p.metadata["type"] for p in problems} == set(FAMILIES)
    for p in problems:
        assert (root / p.metadata["game"]).is_file()
        assert p.metadata["game"] == f"{p.prompt_id}/game.tw-pddl"
        assert p.prompt_id.split("/")[-2].endswith(f"-{p.metadata['scene']}")
        assert p.prompt[-1]["role"] != "user"
        json.dumps(p.metadata)
    assert len(task.problems("valid_unseen")) == 2
    assert all(p.prompt == [] for p in ALFWorld(str(root), "act").problems("train"))


def test_the_same_problems_in_the_same_order_whatever_the_disk_says(many, tmp_path_factory, monkeypatch):
    task = ALFWorld(str(many))
    problems = task.problems("train")
    assert len(problems) == 16
    assert ids(task.problems("train", seed=3)) == ids(problems)
    assert task.problems("train") == problems
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in reversed(NAMES):
        listed(elsewhere, name, "trial_T2")
        listed(elsewhere, name)
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: reversed(list(walk(*a, **k))))
    assert ids(ALFWorld(str(elsewhere)).problems("train")) == ids(problems)
    assert ids(task.problems("train")) == ids(problems)


def test_the_first_ones_mix_families_and_rooms(many):
    task = ALFWorld(str(many))
    problems = task.problems("train")
    for count in (1, 5, 16):
        assert ids(task.problems("train", count)) == ids(problems)[:count]
    assert ids(problems) != sorted(ids(problems))
    assert len({p.metadata["type"] for p in problems[:6]}) > 2


@pytest.mark.parametrize(
    ("split", "count", "what"),
    [
        ("train", 17, "train has 16 games"),
        ("valid_seen", None, "valid_seen has 0 games"),
        ("test", None, "no split 'test'; there is train, valid_seen, valid_unseen"),
    ],
)
def test_splits_and_counts_that_are_not_there(many, split, count, what):
    with pytest.raises(InputError, match=what):
        ALFWorld(str(many)).problems(split, count)


def test_no_games_at_all(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=rf"no folder of games; give --data or \${DATA}"):
        ALFWorld().problems("train")
    monkeypatch.setenv(DATA, "")
    with pytest.raises(InputError, match=r"no folder of games"):
        ALFWorld().problems("train")
    for task in (ALFWorld(str(tmp_path)), ALFWorld(str(tmp_path / "nowhere"))):
        with pytest.raises(InputError, match=rf"{tmp_path}.*: holds no json_2.1.1"):
            task.problems("train")


def test_the_folder_is_given_or_of_the_environment(many, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA, str(many))
    assert len(ALFWorld().problems("train")) == 16
    monkeypatch.setenv(DATA, str(tmp_path / "elsewhere"))
    assert len(ALFWorld(str(many)).problems("train")) == 16


def test_no_such_style():
    with pytest.raises(InputError, match="no style 'chatty'"):
        ALFWorld(None, "chatty")


def test_games_that_alfworld_skips_are_skipped(tmp_path):
    good = f"{FAMILIES[1]}-Book-None-DeskLamp-301"
    listed(tmp_path, good)
    listed(tmp_path, "pick_and_place_with_movable_recep-Fork-Mug-Shelf-3")
    listed(tmp_path, f"{FAMILIES[2]}-AppleSliced-None-Fridge-4")
    listed(tmp_path, f"{FAMILIES[0]}-A-None-Shelf-1", solvable=False)
    listed(tmp_path, f"{FAMILIES[0]}-B-None-Shelf-1", grammar="")
    listed(tmp_path, f"{FAMILIES[0]}-C-None-Shelf-1", family="pick_and_dance")
    (tmp_path / "json_2.1.1" / "train" / good / "trial_T1" / "left").mkdir()
    listed(tmp_path, f"{FAMILIES[0]}-D-None-Shelf-1")
    (tmp_path / "json_2.1.1" / "train" / f"{FAMILIES[0]}-D-None-Shelf-1" / "trial_T1" / "game.tw-pddl").unlink()
    (problem,) = ALFWorld(str(tmp_path)).problems("train")
    assert problem.metadata == {
        "type": FAMILIES[1],
        "scene": "301",
        "game": f"json_2.1.1/train/{good}/trial_T1/game.tw-pddl",
    }


def test_looking_for_games_says_nothing(many, capfd):
    ALFWorld(str(many)).problems("train")
    assert capfd.readouterr() == ("", "")


def test_results_say_which_games_they_had(many):
    task, again = ALFWorld(str(many)), ALFWorld(str(many))
    assert task.source_versions == {}
    task.problems("train", 3)
    again.problems("train")
    assert set(task.source_versions) == {"train"}
    assert task.source_versions == again.source_versions
    listed(many, NAMES[0], "trial_T3")
    again.problems("train")
    assert again.source_versions != task.source_versions


def test_grading_is_the_environments(task):
    problem = task.problems("train", 1)[0]
    with pytest.raises(InputError, match="graded by its environment"):
        task.grade(problem, "go to shelf 1")
    assert task.wrong_steps(problem, "go to shelf 1") is None


def test_the_task_can_be_pickled_and_copied(task, files):
    problems = task.problems("train")
    act = ALFWorld(task.data, "act")

    def pickled(made):
        return pickle.loads(pickle.dumps(made))  # noqa: S301

    for made in (pickled(task), copy.copy(task), copy.deepcopy(task), dataclasses.replace(task)):
        assert made.problems("train") == problems
        assert made.environment() is not None
    assert [p.prompt for p in pickled(act).problems("train")] == [[]] * 6


@pytest.fixture(scope="module")
def short(task):
    """The game with the shortest walkthrough: problem, commands."""
    problems = task.problems("train")

    def commands(problem):
        return json.loads((task.root / problem.metadata["game"]).read_text())["walkthrough"]

    problem = min(problems, key=lambda p: len(commands(p)))
    return problem, commands(problem)


@pytest.mark.parametrize(("style", "says", "begins"), [("react", spoken, "Observation: "), ("act", str, "")])
def test_a_game_as_a_conversation(task, short, style, says, begins):
    """Reward and end come with the winning command, and not before; after a reset everything is as it was."""
    problem, commands = short
    game = Game(task.root / problem.metadata["game"])
    room, *words = [game.reset().text, *(game.step(c).text for c in commands)]
    game.close()
    household = ALFWorld(task.data, style).environment()
    half_way = [household.reset(problem), household.step(says(commands[0]))]
    heard = [[household.reset(problem), *(household.step(says(c)) for c in commands)] for _ in range(2)]
    household.close()
    assert heard[0] == heard[1]
    assert heard[0][:2] == half_way
    first, *answers = heard[0]
    assert room == f"-= Welcome to TextWorld, ALFRED! =-\n\n{first.text}"
    assert "Your task is to: " in first.text
    assert [a.text for a in answers] == [f"{begins}{w}" for w in words]
    assert [first.done, *(a.done for a in answers)] == [False] * len(commands) + [True]
    assert [first.reward, *(a.reward for a in answers)] == [0.0] * len(commands) + [1.0]


def test_replies_of_all_kinds(task, short):
    problem, commands = short
    household = task.environment()

    def after_reset(reply):
        household.reset(problem)
        return household.step(reply)

    wanted = after_reset(spoken(commands[0]))
    assert wanted.text.startswith("Observation: You arrive at ")
    for reply in (
        commands[0],
        f"Action: look\nAction: {commands[0]}",
        f"{spoken(commands[0])}\nObservation: I made this up\nThought: so be it",
    ):
        assert after_reset(reply) == wanted
    for reply in ("", "Thought: hm", "Action:", "Action: fly to shelf 1", f"Action: {commands[0]}!"):
        nothing = after_reset(reply)
        assert (nothing.text, nothing.reward, nothing.done) == ("Observation: Nothing happens.", 0.0, False)
    household.close()


def test_a_household_goes_on_to_another_game_and_opens_again(task, tmp_path):
    first, second = task.problems("train", 2)
    household = task.environment()
    household.close()  # nothing is loaded yet
    room = household.reset(first)
    game = household._game
    household.reset(first)
    assert household._game is game  # it stays loaded
    other = household.reset(second)
    assert household._game is not game
    assert other.text != room.text
    fresh = task.environment()
    assert fresh.reset(second) == other
    household.close()
    household.close()
    assert household.reset(first) == room
    household.close()
    fresh.close()


def test_published_looking_games_need_nothing_that_only_a_build_writes(task, short, tmp_path):
    """Another root, no walkthrough, no initial_state: still the same words."""
    problem, commands = short
    copied = tmp_path / problem.prompt_id
    shutil.copytree(task.root / problem.prompt_id, copied, ignore=shutil.ignore_patterns("initial_state.pddl"))
    game = json.loads((copied / "game.tw-pddl").read_text())
    del game["walkthrough"]
    (copied / "game.tw-pddl").write_text(json.dumps(game))
    elsewhere = ALFWorld(str(tmp_path))
    (again,) = elsewhere.problems("train")
    assert again == problem
    heard = []
    for each in (task, elsewhere):
        household = each.environment()
        heard.append([household.reset(problem), *(household.step(spoken(c)) for c in commands)])
        household.close()
    assert heard[0] == heard[1]
    assert heard[0][-1].done
    assert alfworld_module("alfworld") is not None
