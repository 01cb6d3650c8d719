"""The whole loop at toy size: one seed gives one result byte for byte, two seeds give two."""

import json

import pytest

from stepcredit.cli import main
from stepcredit.episodes.store import load_episodes
from stepcredit.experiments import initial_policy as start
from stepcredit.experiments.scratch import ModelSize
from stepcredit.tasks import arithmetic

SMALL = (
    "--demonstrations 1500 --sft_steps 170 --train_prompts 24 --num_generations 4 --epochs 1 --value_warmup_steps 0 "
    "--test_prompts 20 --value_prompts 12 --threads 1"
)


@pytest.fixture
def easy(monkeypatch):
    """Two groups a problem and a very small model: right answers after seconds of training."""
    monkeypatch.setattr(arithmetic, "GROUPS", 2)
    monkeypatch.setattr(start, "ModelSize", lambda: ModelSize(32, 64, 2, 2))


def run(folder, seed):
    assert main(["quickstart", "--output_dir", str(folder), "--seed", str(seed), *SMALL.split()]) == 0
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.long
def test_one_seed_one_result_byte_for_byte(easy, tmp_path, capsys):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        files = run(tmp_path / name, seed)
        out = capsys.readouterr().out
        assert "report.html" in out
        assert "oreo" in out.lower()
        runs.append({k: v.replace(f"{tmp_path}/{name}".encode(), b"") for k, v in files.items() if k != "timings.json"})
    assert runs[0].keys() == runs[1].keys()
    assert [k for k in runs[0] if runs[0][k] != runs[1][k]] == []
    different = {k for k in runs[0] if runs[0][k] != runs[2].get(k)}
    assert {"results.json", "report.html", "oreo/policy/model.safetensors", "oreo/value/model.safetensors"} <= different
    rows = json.loads(runs[0]["results.json"])
    assert [r["method"] for r in rows] == ["sft", "rft", "oreo"]
    assert all(r["n"] == 20 and 0 <= r["accuracy"] <= 1 and "seconds" not in r for r in rows)
    assert {"auc_within_prompt", "first_wrong_step"} <= {r["metric"] for r in json.loads(runs[0]["value.json"])}


@pytest.mark.long
def test_a_stopped_run_begins_anew_and_a_finished_one_is_shown(easy, tmp_path, capsys, monkeypatch):
    from stepcredit.experiments import quickstart

    def stopped(loop, episodes):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    command = ["quickstart", "--output_dir", str(out), *SMALL.split()]
    with monkeypatch.context() as stopping:
        stopping.setattr(quickstart, "_rft", stopped)
        assert main(command) == 130
    assert {path.name for path in out.iterdir()} == {"sft", "episodes", "responses", "results.json", "unfinished.json"}
    (out / "mine.txt").write_text("keep")
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    (out / "mine.txt").unlink()

    files = run(out, 0)
    assert {name.partition("/")[0] for name in files} == {*quickstart._MADE} - {"unfinished.json"}
    assert len(load_episodes(out / "episodes")) == 24 * 4  # those of the stopped run are gone
    assert len(load_episodes(out / "responses" / "sft")) == 20
    assert [row["method"] for row in json.loads(files["results.json"])] == ["sft", "rft", "oreo"]

    capsys.readouterr()
    assert run(out, 0) == files
    assert "report.html" in capsys.readouterr().out
    assert main([*command, "--seed", "1"]) == 2
    assert "was run with another seed; remove it, or choose another --output_dir" in capsys.readouterr().err


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["quickstart", "--output_dir", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
