"""Results of finished runs of runs/gsm8k, kept beside the script for another machine (pieces.py)."""

from pathlib import Path

import pytest

from runs.gsm8k.pieces import keep, restore
from stepcredit.files import read_manifest, write_json

START, VALUE, STEP, OTHER = (
    "sft-seed0",
    "oreo-seed0-lr2e-05-test",
    "oreo-step-seed0-lr2e-05-test",
    "oreo-seed1-lr2e-05-test",
)
UNFINISHED = "dpo-seed0"


def run(folder: Path) -> None:
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "model.safetensors").write_bytes(b"of this run")
    write_json(folder / "result.json", {"settings": {}, "inputs": {"model": "x"}, "result": {}, "seconds": 1.0})


@pytest.fixture
def start(tmp_path):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "model.safetensors").write_bytes(b"start")
    return tmp_path / "start"


@pytest.fixture
def kept(tmp_path, start):
    """What another machine kept of four finished runs and one that was not."""
    runs = tmp_path / "there" / "runs"
    for name in (START, VALUE, STEP, OTHER):
        run(runs / name)
    (runs / START / "episodes").mkdir()
    (runs / START / "episodes" / "collect.json").write_text("{}")
    (runs / UNFINISHED).mkdir()
    keep(runs, tmp_path / "kept", start)
    keep(runs, tmp_path / "kept", start)  # again, as after each part
    return tmp_path / "kept"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_is_kept_has_no_models(kept):
    results = {f"{name}/result.json" for name in (START, VALUE, STEP, OTHER)}
    assert files(kept) == {*results, f"{START}/episodes/collect.json", "start.json"}


def test_another_machine_goes_on(kept, start, tmp_path, capsys):
    restore(tmp_path / "here", kept, start)
    assert files(tmp_path / "here") == (files(kept) - {"start.json"}) | {f"{START}/policy/model.safetensors"}
    assert (tmp_path / "here" / START / "policy" / "model.safetensors").read_bytes() == b"start"
    assert "inputs" not in read_manifest(tmp_path / "here" / VALUE / "result.json")
    assert capsys.readouterr().err == ""


def test_another_start_is_told(kept, start, tmp_path, capsys):
    (start / "model.safetensors").write_bytes(b"stort")
    restore(tmp_path / "here", kept, start)
    assert "not the start of the runs in" in capsys.readouterr().err


def test_a_run_whose_value_model_is_needed_is_left_to_be_made(kept, start, tmp_path):
    restore(tmp_path / "here", kept, start, ["oreo"])
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == sorted([STEP, OTHER, START])


def test_what_is_there_stays(kept, start, tmp_path):
    mine = tmp_path / "here" / OTHER / "checkpoint-8"
    mine.mkdir(parents=True)
    restore(tmp_path / "here", kept, start)
    assert files(tmp_path / "here" / OTHER) == set()
