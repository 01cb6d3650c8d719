"""Checkpoints: whole, damaged, of another run; runs that are finished, killed in their last save, or told to end."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from test_trainer import config, episodes, trainer
from transformers import TrainerCallback

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import InputError, IQLConfig, OREOConfig
from stepcredit.episodes.store import append_episodes
from stepcredit.training.resuming.checkpoints import WHOLE, check_checkpoint, last_checkpoint, mark_whole
from stepcredit.training.train import TrainConfig, train

RUN = {"method": "oreo", "learning_rate": 0.1, "max_steps": 20}


def checkpoint(folder, number, run=RUN):
    path = folder / f"checkpoint-{number}"
    (path / "policy").mkdir(parents=True)
    (path / "policy" / "weights").write_bytes(b"weights")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": number, "max_steps": 20, "epoch": 1.0}))
    mark_whole(path, run)
    return path


DAMAGE = {
    "is incomplete, without the whole.json": lambda path: (path / WHOLE).unlink(),
    r"whole.json: damaged or half-written": lambda path: (path / WHOLE).write_text("{"),
    r"whole.json: is damaged": lambda path: (path / WHOLE).write_text('{"run": {"a": 1}, "files": [1]}'),
    "policy/weights is missing": lambda path: (path / "policy" / "weights").unlink(),
    "policy/weights is damaged": lambda path: (path / "policy" / "weights").write_bytes(b"weigths"),
    "trainer_state.json is damaged": lambda path: (path / "trainer_state.json").write_text("{}"),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(said, tmp_path, capsys):
    good, bad = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    (tmp_path / "checkpoint-x").mkdir()
    assert last_checkpoint(tmp_path, RUN) == str(bad)
    DAMAGE[said](bad)
    with pytest.raises(InputError, match=f"checkpoint-10.*{said}"):
        check_checkpoint(bad)
    assert last_checkpoint(tmp_path, RUN) == str(good)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(bad))
    assert line.endswith("checkpoint-10 is left out")
    shutil.rmtree(good)
    assert last_checkpoint(tmp_path, RUN) is None


def test_checkpoints_of_another_run_are_refused_unless_there_is_one_of_this(tmp_path, capsys):
    checkpoint(tmp_path, 10, {**RUN, "learning_rate": 0.2})
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    with pytest.raises(InputError, match=r"checkpoint-10: is of a run with another learning_rate; choose another"):
        last_checkpoint(tmp_path, RUN)
    with pytest.raises(InputError, match="is of a run with another method; "):
        last_checkpoint(tmp_path, {**RUN, "method": "iql"})
    checkpoint(tmp_path, 8)
    assert last_checkpoint(tmp_path, RUN) == str(tmp_path / "checkpoint-8")
    longer = {**RUN, "max_steps": 40}
    assert last_checkpoint(tmp_path, longer) == str(tmp_path / "checkpoint-8")
    assert last_checkpoint(tmp_path, {**RUN, "max_steps": 7}) is None
    assert "checkpoint-8: is past the 7 steps of this run" in capsys.readouterr().err


# ---- runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny_llama().save_pretrained(folder / "policy")
    byte_tokenizer().save_pretrained(folder / "policy")
    append_episodes(folder / "episodes", episodes())
    return folder


def trained(inputs, out, kind=OREOConfig, **given):
    about = TrainConfig(model=str(inputs / "policy"), episodes=[str(inputs / "episodes")])
    defaults = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 3, "max_steps": 5}
    return train(about, config(out, kind, **{**defaults, **given}))


def files(out):
    """Weights, curve and settings of a finished run, and what else there is, without checkpoints."""
    kept = [path for path in sorted(out.rglob("*")) if path.is_file() and "checkpoint-" not in str(path)]
    return {str(p.relative_to(out)): p.read_bytes() for p in kept if p.name != "training_args.json"}


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """An undisturbed run of 5 steps, of 3 an epoch."""
    out = tmp_path_factory.mktemp("whole") / "out"
    trained(inputs, out)
    return out


def test_a_finished_run_trains_no_further(inputs, whole, tmp_path, caplog):
    shutil.copytree(whole, tmp_path / "out")
    before = files(whole)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with caplog.at_level("INFO", "stepcredit"):
        trained(inputs, tmp_path / "out")
    assert "this training run is finished; nothing is left to do" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert sorted(p.name for p in whole.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("left", ["nothing", "policy", "policy and value", "all but run.json"])
def test_a_run_killed_in_its_last_save_is_repaired_and_trains_no_further(inputs, whole, left, tmp_path, caplog):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "run.json").unlink()
    for part in {"nothing": ("policy", "value"), "policy": ("value",)}.get(left, ()):
        shutil.rmtree(out / part)
    if left != "all but run.json":
        (out / "curves.json").unlink()
    with caplog.at_level("INFO", "stepcredit"):
        trained(inputs, out)
    assert "checkpoint-5: is the end of training; nothing is left to train" in caplog.text
    assert files(out) == files(whole)


@pytest.mark.parametrize("epochs", [1.5, 2])
def test_epochs_end_where_they_end(inputs, epochs, tmp_path):
    out = tmp_path / "out"
    given = {"max_steps": -1, "num_train_epochs": epochs, "save_strategy": "epoch"}
    trained(inputs, out, **given)
    before, numbers = files(out), sorted(p.name for p in out.glob("checkpoint-*"))
    assert numbers == ["checkpoint-3", f"checkpoint-{5 if epochs == 1.5 else 6}"]
    (out / "run.json").unlink()
    trained(inputs, out, **given)
    assert files(out) == before
    assert sorted(p.name for p in out.glob("checkpoint-*")) == numbers


def test_the_folder_of_another_run_is_refused_and_a_longer_run_goes_on(inputs, whole, tmp_path, caplog):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = files(out)
    with pytest.raises(InputError, match=r"out: holds a training run with another learning_rate; choose another"):
        trained(inputs, out, learning_rate=1e-4)
    with pytest.raises(InputError, match="holds a training run with another method"):
        trained(inputs, out, IQLConfig)
    append_episodes(tmp_path / "more", episodes(15))
    about = TrainConfig(model=str(inputs / "policy"), episodes=[str(tmp_path / "more")])
    with pytest.raises(InputError, match="another training data"):
        train(about, config(out, save_strategy="steps", save_steps=2, logging_steps=3, max_steps=5))
    assert files(out) == before
    (out / "run.json").unlink()
    with pytest.raises(InputError, match="checkpoint-5: is of a run with another learning_rate"):
        trained(inputs, out, learning_rate=1e-4)
    trained(inputs, out, max_steps=6)
    assert json.loads((out / "run.json").read_text())["run"]["max_steps"] == 6
    trained(inputs, out, learning_rate=1e-4, resume_from_checkpoint="false")


def test_another_start_is_another_run(tmp_path):
    same = [trainer(tmp_path / str(k)).identity for k in range(2)]
    assert same[0] == same[1]
    model = tiny_llama()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    assert trainer(tmp_path / "other", model=model).identity["start of policy"] != same[0]["start of policy"]


class Stopping(TrainerCallback):
    """Calls a function at the end of a step."""

    def __init__(self, step, call):
        self.step, self.call = step, call

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.call()


class Terminated(BaseException):
    """What SIGTERM raises in these tests."""


def ending_at_step(monkeypatch, step, signals):
    """Sends SIGTERM during a step, as often as told."""

    def terminate():
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGTERM)

    def add(run, label):
        run.callback_handler.callbacks.insert(0, Stopping(step, terminate))

    monkeypatch.setattr("stepcredit.training.train.show_progress", add)


@pytest.fixture
def terminating():
    def end(number, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    yield
    assert signal.signal(signal.SIGTERM, before) is end


@pytest.mark.parametrize(("signals", "kept"), [(1, ["checkpoint-1"]), (2, [])])
def test_sigterm_saves_and_ends_and_a_second_one_ends_at_once(
    inputs, whole, tmp_path, monkeypatch, terminating, signals, kept
):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        ending_at_step(patched, 1, signals)
        with pytest.raises(Terminated):
            trained(inputs, out)
    assert [path.name for path in out.glob("checkpoint-*")] == kept
    assert not (out / "policy").exists()
    trained(inputs, out)
    assert files(out) == files(whole)  # the curve, too, of steps before and after


def test_a_full_disk_is_one_line_and_half_a_checkpoint_does_not_stay(inputs, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    saves = []

    def full(*args, **kwargs):
        saves.append(args)
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    with monkeypatch.context() as patched:
        patched.setattr("torch.save", full)
        with pytest.raises(
            InputError, match=r"checkpoint-2: cannot be written .*; make space and run the command again"
        ):
            trained(inputs, out)
    assert saves
    assert not list(out.glob("checkpoint-*"))
    trained(inputs, out)
    assert files(out) == files(whole)


def test_older_checkpoints_are_removed_once_the_new_one_is_whole(inputs, tmp_path, monkeypatch):
    seen = []
    mark = mark_whole

    def noted(folder: Path, run):
        seen.append(sorted(path.name for path in folder.parent.glob("checkpoint-*")))
        mark(folder, run)

    monkeypatch.setattr("stepcredit.training.resuming.resumable_trainer.mark_whole", noted)
    trained(inputs, tmp_path / "out", save_total_limit=1)
    assert seen == [["checkpoint-2"], ["checkpoint-2", "checkpoint-4"], ["checkpoint-4", "checkpoint-5"]]
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-5"]
