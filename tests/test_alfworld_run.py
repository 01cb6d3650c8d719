"""Tests of how runs/alfworld/run.py orders its work; what it calls has tests of its own."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import loaded


@pytest.fixture(scope="module")
def script():
    with loaded("alfworld/run.py") as run:
        yield run


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_calls_are_run(script, tmp_path, jobs):
    script.run_all([partial(Path.touch, tmp_path / name) for name in "abc"], jobs)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_call_is_told(script, tmp_path, jobs):
    with pytest.raises(FileNotFoundError):
        script.run_all([partial(Path.touch, tmp_path / "no" / "folder"), partial(Path.touch, tmp_path / "a")], jobs)


def test_games_that_are_collected_apart_are_as_many_and_drawn_by_other_seeds(script):
    play = script.playing(Path("games"), None)
    (together,) = script.collections(Path("sft"), Path("out"), 1, play, separate=False).values()
    apart = [call.args[0] for call in script.collections(Path("sft"), Path("out"), 1, play, separate=True).values()]
    assert together.args[0].num_generations == sum(asked.num_generations for asked in apart) == 5
    assert len({asked.output_dir for asked in apart}) == len({asked.seed for asked in apart}) == 5
    next_seed = script.collections(Path("sft"), Path("out"), 2, play, separate=True).values()
    assert not {asked.seed for asked in apart} & {call.args[0].seed for call in next_seed}


def test_after_sft_the_last_layers_of_a_pretrained_model_learn(script):
    pretrained, small = SimpleNamespace(pretrained="model"), SimpleNamespace(pretrained=None)
    assert "train_layers" not in script.training_settings(pretrained, "sft")
    assert script.training_settings(pretrained, "oreo-step")["train_layers"] == 6
    assert script.training_settings(pretrained, "oreo-step")["learning_rate"] == 2e-5
    assert script.training_settings(small, "oreo-step") == {**script.LEARNING, **script.SETTINGS["oreo"]}
    assert script.training_settings(small, "sft") == script.SFT


def test_each_evaluation_with_several_replies_is_made_once(script):
    calls = script.several(Path("trained"), Path("out"), 0, [2, 3], split="valid_seen")
    asked = [(call.args[2], call.keywords["search"], call.keywords.get("width")) for call in calls]
    assert len(asked) == len(set(asked)) == 2 * (1 + 2 * 2)
