"""Results of finished runs of runs/gsm8k, kept beside the script for another machine (pieces.py)."""

from pathlib import Path

import pytest

from runs.gsm8k.pieces import keep, restore
from stepcredit.files import write_json

START, VALUE, OTHER, UNFINISHED = "sft-seed0", "oreo-seed0-lr2e-05-test", "oreo-seed1-lr2e-05-test", "dpo-seed0"


def run(folder: Path, value: str | None, seed: int) -> None:
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "model.safetensors").write_bytes(b"of this run")
    write_json(
        folder / "result.json",
        {"settings": {}, "result": {"rows": [{"value": value, "split": "test", "seed": seed}]}, "seconds": 1.0},
    )


@pytest.fixture
def kept(tmp_path):
    """What another machine kept of three finished runs and one that was not."""
    runs = tmp_path / "there" / "runs"
    run(runs / START, None, 0)
    run(runs / VALUE, "value", 0)
    run(runs / OTHER, "value", 1)
    (runs / START / "episodes").mkdir()
    (runs / START / "episodes" / "collect.json").write_text("{}")
    (runs / UNFINISHED).mkdir()
    keep(runs, tmp_path / "kept")
    keep(runs, tmp_path / "kept")  # again, as after each part
    return tmp_path / "kept"


@pytest.fixture
def start(tmp_path):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "model.safetensors").write_bytes(b"start")
    return tmp_path / "start"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_is_kept_has_no_models(kept):
    results = {f"{name}/result.json" for name in (START, VALUE, OTHER)}
    assert files(kept) == {*results, f"{START}/episodes/collect.json"}


def test_another_machine_goes_on(kept, start, tmp_path):
    restore(tmp_path / "here", kept, start, value_models=False)
    assert files(tmp_path / "here") == files(kept) | {f"{START}/policy/model.safetensors"}
    assert (tmp_path / "here" / START / "policy" / "model.safetensors").read_bytes() == b"start"


def test_a_run_whose_value_model_is_needed_is_left_to_be_made(kept, start, tmp_path):
    restore(tmp_path / "here", kept, start, value_models=True)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [OTHER, START]


def test_what_is_there_stays(kept, start, tmp_path):
    mine = tmp_path / "here" / OTHER / "checkpoint-8"
    mine.mkdir(parents=True)
    restore(tmp_path / "here", kept, start, value_models=False)
    assert files(tmp_path / "here" / OTHER) == set()
