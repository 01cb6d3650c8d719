"""Tests of how runs/alfworld/run.py orders its work; what it calls has tests of its own."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import RUNS, loaded


@pytest.fixture(scope="module")
def script():
    with loaded("alfworld/run.py") as run:
        yield run


def write(out, needed):
    """What a piece does: it needs what another one wrote, and fails if it is made twice."""
    assert needed is None or (needed / "run.json").exists()
    out.mkdir()
    (out / "run.json").touch()


def test_pieces_are_made_once_and_after_those_they_need(script, tmp_path):
    def piece(name, needed=None, then=()):
        return script.Piece(tmp_path / name, partial(write, tmp_path / name, needed and tmp_path / needed), then)

    pieces = [piece("a", then=(piece("b", "a"), piece("c", "a"))), piece("d"), piece("d")]
    for _ in range(2):  # the second time, all are there
        script.run_all(pieces)
        assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "b", "c", "d"]
    calls = []
    script.run_all(2 * [script.Piece(tmp_path / "e", partial(calls.append, "made"))])
    assert calls == ["made"]


def test_a_piece_that_fails_is_told_and_what_needs_it_is_not_made(script, tmp_path):
    after = script.Piece(tmp_path / "after", partial(write, tmp_path / "after", None))
    with pytest.raises(AssertionError):
        script.run_all([script.Piece(tmp_path / "a", partial(write, tmp_path / "a", tmp_path / "none"), (after,))])
    assert not list(tmp_path.iterdir())


SIDE_BY_SIDE = """
import sys, time
from functools import partial
from pathlib import Path
from run import Piece, run_all

def write(out, needed, waits_for=None):
    assert needed is None or (needed / "run.json").exists()
    while waits_for and not waits_for.exists():
        time.sleep(0.1)
    out.mkdir()
    (out / "run.json").touch()

if __name__ == "__main__":
    a, b, c = (Path(sys.argv[1], name) for name in "abc")
    try:
        after_a = Piece(c, partial(write, c, a))
        run_all([Piece(a, partial(write, a, None, b), (after_a,)), Piece(b, partial(write, b, None))], jobs=2)
        fails = partial(write, a / "d", Path("none"))
        run_all([Piece(c, None), Piece(a / "d", fails, (Piece(a / "e", None),))], jobs=2)
    except AssertionError:
        print("told")
"""


def test_side_by_side(tmp_path):
    """A piece that waits for the other one, then one that is there and one that fails."""
    (tmp_path / "go.py").write_text(SIDE_BY_SIDE)
    (tmp_path / "out").mkdir()
    paths = {"PYTHONPATH": os.pathsep.join([str(RUNS / "alfworld"), *sys.path])}
    command = [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "told\n"
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["a", "b", "c"]
    assert [f.name for f in (tmp_path / "out" / "a").iterdir()] == ["run.json"]


def test_after_sft_the_last_layers_of_a_pretrained_model_learn(script):
    pretrained, small = SimpleNamespace(pretrained="model"), SimpleNamespace(pretrained=None)
    assert "train_layers" not in script.training_settings(pretrained, "sft")
    assert script.training_settings(pretrained, "oreo-step")["train_layers"] == 6
    assert script.training_settings(pretrained, "oreo-step")["learning_rate"] == 2e-5
    assert script.training_settings(small, "oreo-step") == {**script.LEARNING, **script.SETTINGS["oreo"]}
    assert script.training_settings(small, "sft") == script.SFT


def test_each_evaluation_with_several_replies_has_a_folder(script):
    play = script.playing(Path("games"), None)
    pieces = script.several(Path("trained"), Path("out"), 0, [2, 3], **play, split="valid_seen")
    assert len({piece.out for piece in pieces}) == len(pieces) == 2 * (1 + 2 * 2)


def test_rows_name_models_by_their_training_and_a_base_model_by_its_folder(script):
    assert (
        script.short(Path("out/seed0/oreo-step/policy"))
        == script.short(Path("out/seed0/oreo-step/value"))
        == "oreo-step"
    )
    assert script.short(Path("cache/smollm2")) == "smollm2"
