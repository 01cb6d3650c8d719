"""Built games: laid out as the published ones, whole or not at all, the same for the same seed, and won before they
count."""

import json
import os
import re
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest

from stepcredit.tasks.alfworld import build
from stepcredit.tasks.alfworld.alfworld_task import ALFWorld
from stepcredit.tasks.alfworld.build import GameSpec, build_game, build_games, certify, game_specs
from stepcredit.tasks.alfworld.engine_cache import CACHE
from stepcredit.tasks.alfworld.installation import alfworld_module, shipped
from stepcredit.tasks.alfworld.rooms import scenes
from stepcredit.tasks.alfworld.scenario import FAMILIES, draw_scenario


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def games_in(folder, split="train"):
    return ALFWorld(str(folder)).game_files(split)


def copied(files, number, folder):
    """A game of the build in a folder of its own."""
    copy = folder / "json_2.1.1" / "train" / files[number].parent.parent.name / files[number].parent.name
    shutil.copytree(files[number].parent, copy)
    return copy / "game.tw-pddl"


def with_goal(file, change):
    game = json.loads(file.read_text())
    game["pddl_problem"] = change(game["pddl_problem"])
    file.write_text(json.dumps(game))
    return file


def test_the_layout_of_the_published_games(root):
    assert {f.name for f in root.iterdir()} == {"json_2.1.1", "logic"}
    assert {f.name for f in (root / "json_2.1.1").iterdir()} == {"train", "valid_unseen"}
    for name in ("alfred.pddl", "alfred.twl2"):
        assert (root / "logic" / name).read_bytes() == shipped("data", name).read_bytes()
    trials = [f.parent for f in root.glob("json_2.1.1/*/*/*/game.tw-pddl")]
    assert len(trials) == 8
    for trial in trials:
        assert {f.name for f in trial.iterdir()} == {"game.tw-pddl", "initial_state.pddl", "traj_data.json"}
        about = json.loads((trial / "traj_data.json").read_text())
        params = about["pddl_params"]
        family, target, none, parent, scene = trial.parent.name.split("-")
        assert family == about["task_type"]
        assert target == params["object_target"]
        assert none == "None"
        assert parent == params["parent_target"] + params["toggle_target"]
        assert int(scene) in scenes(trial.parent.parent.name)
        assert params["mrecep_target"] == ""
        assert params["object_sliced"] is False
        assert re.fullmatch(r"trial_T\d+", trial.name)


def test_a_game_file_is_whole(root):
    for file in root.glob("json_2.1.1/*/*/*/game.tw-pddl"):
        game = json.loads(file.read_text())
        assert set(game) == {"pddl_domain", "grammar", "pddl_problem", "solvable", "walkthrough"}
        assert game["solvable"] is True
        assert game["pddl_problem"] == (file.parent / "initial_state.pddl").read_text()
        assert game["pddl_domain"] == shipped("data", "alfred.pddl").read_text()
        about = json.loads((file.parent / "traj_data.json").read_text())
        description = about["turk_annotations"]["anns"][0]["task_desc"]
        assert f"Your task is to: {description}." in game["grammar"]
        assert game["grammar"].replace(description, "UNKNOWN GOAL") == shipped("data", "alfred.twl2").read_text()
        assert game["walkthrough"] == certify(file)


def test_all_families_in_turn(root):
    for split, count in (("train", 6), ("valid_unseen", 2)):
        trials = sorted((root / "json_2.1.1" / split).glob("*/*"), key=lambda f: f.name)
        assert [t.parent.name.split("-")[0] for t in trials] == list(FAMILIES[:count])
    wanted = game_specs(root, {"train": 13, "valid_seen": 0, "valid_unseen": 7}, 5)
    assert [w.family for w in wanted] == [*FAMILIES, *FAMILIES, FAMILIES[0], *FAMILIES, FAMILIES[0]]
    assert {w.seed for w in wanted} == {5}
    assert [w.split for w in wanted] == ["train"] * 13 + ["valid_unseen"] * 7


def test_a_second_run_changes_no_byte(root, seed):
    before = contents(root)
    again = list(build_games(game_specs(root, {"train": 6, "valid_unseen": 2}, seed), workers=1))
    assert [b.was_there for b in again] == [True] * 8
    assert {str(b.file.relative_to(root)) for b in again} == {n for n in before if n.endswith("game.tw-pddl")}
    assert contents(root) == before


@pytest.mark.parametrize(("split", "number"), [("train", 1), ("valid_unseen", 0)])
def test_equal_seeds_give_equal_games_elsewhere(root, seed, tmp_path, split, number):
    built = build_game(GameSpec(tmp_path / "elsewhere", split, number, seed))
    assert (built.was_there, built.rejected) == (False, 0)
    name = built.file.relative_to(tmp_path / "elsewhere")
    assert contents(built.file.parent) == contents((root / name).parent)


def test_seeds_splits_and_numbers_give_other_games(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(build, "_write_certified", lambda scenario, *_: bool(drawn.append(scenario)) or True)
    for wanted in (("train", 0, 0), ("train", 0, 1), ("valid_seen", 0, 0), ("train", 6, 0), ("train", 0, 0)):
        build_game(GameSpec(tmp_path, *wanted))
    assert drawn[0] == drawn[-1]
    assert len({s.placed for s in drawn}) == 4


KILLED = """
import os
from pathlib import Path
from stepcredit.tasks.alfworld import build
write, certify = build._write, build.certify
def dying_write(file, content):
    if content.get("solvable"):
        file.write_text('{{"solvable": tr')
        os._exit(9)
    write(file, content)
if {when!r} == "while writing": build._write = dying_write
if {when!r} == "while certifying": build.certify = lambda file: os._exit(9)
if {when!r} == "at the end": Path.replace = lambda self, to: os._exit(9)
build.build_game(build.GameSpec(Path({root!r}), "train", 1, {seed}))
"""


@pytest.mark.parametrize("when", ["while certifying", "while writing", "at the end"])
def test_a_killed_draft_is_no_game_and_is_no_obstacle(tmp_path, own_cache, seed, when):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), CACHE: str(own_cache)}
    script = KILLED.format(when=when, root=str(tmp_path), seed=seed)
    died = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert died.returncode == 9
    (tmp_path / "json_2.1.1" / "train").mkdir(parents=True, exist_ok=True)
    assert games_in(tmp_path) == []
    built = build_game(GameSpec(tmp_path, "train", 1, seed))
    assert not built.was_there
    assert games_in(tmp_path) == [built.file.relative_to(tmp_path).as_posix()]


def test_a_game_that_cannot_be_won_is_not_certified(files, tmp_path):
    file = copied(files, 0, tmp_path)
    assert certify(file) == json.loads(file.read_text())["walkthrough"]
    with_goal(file, lambda p: p[: p.index("(:goal")] + "(:goal (checked agent1)))")  # no plan takes an inventory
    assert certify(file) is None


def test_a_game_that_is_won_before_the_last_command_is_not_certified(files, tmp_path):
    """Under a lamp the target stays in hand: a goal of holding it is reached early and for good."""
    file = copied(files, 1, tmp_path)
    with_goal(file, lambda p: p[: p.index("(:goal")] + "(:goal (exists (?o - object) (holds agent1 ?o))))")
    assert certify(file) is None


def test_another_game_is_drawn_for_one_that_cannot_be_won(tmp_path, monkeypatch):
    verdicts = iter([None, ["look"]])
    monkeypatch.setattr(build, "certify", lambda file: next(verdicts))
    built = build_game(GameSpec(tmp_path, "train", 0, 3))
    assert (built.rejected, built.was_there) == (1, False)
    second = draw_scenario(FAMILIES[0], build._rooms("train"), np.random.default_rng([3, zlib.crc32(b"train"), 0, 1]))
    assert (
        built.file.parent.parent.name
        == f"{second.family}-{second.target}-None-{second.parent or second.lamp}-{second.room.scene}"
    )
    assert json.loads(built.file.read_text())["walkthrough"] == ["look"]
    assert games_in(tmp_path) == [built.file.relative_to(tmp_path).as_posix()]


def test_draws_end(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "certify", lambda file: None)
    with pytest.raises(RuntimeError, match="none of 20 samples of game 2 of valid_seen could be won"):
        build_game(GameSpec(tmp_path, "valid_seen", 2, 0))
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


def test_no_description_breaks_the_grammar(root):
    """It stands in JSON in a string: quotes and backslashes would end it."""
    library = alfworld_module("alfworld.gen.goal_library").gdict
    assert not any(set(t) & set('"\\\n') for family in FAMILIES for t in library[family]["templates"])
