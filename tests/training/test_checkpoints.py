"""Checkpoints: whole, damaged, of another run; runs that are finished, killed in their last save, or told to end."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from peft import LoraConfig
from test_trainer import config, episodes, trainer
from transformers import TrainerCallback

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import InputError, IQLConfig, OREOConfig
from stepcredit.episodes.store import append_episodes
from stepcredit.training.resuming.checkpoints import WHOLE, check_checkpoint, check_run, last_checkpoint, mark_whole
from stepcredit.training.resuming.resumable_trainer import _AroundSteps, saving_at_sigterm
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
    with pytest.raises(
        InputError,
        match=r"checkpoint-10: is of a run with another learning_rate \(0.2 there, 0.1 here\); choose another",
    ):
        last_checkpoint(tmp_path, RUN)
    with pytest.raises(InputError, match="is of a run with another method; "):
        last_checkpoint(tmp_path, {**RUN, "method": "iql"})
    several = {**RUN, "learning_rate": 0.2, "seed": 20240101, "bf16": True, "number of items per step": 8}
    with pytest.raises(InputError) as caught:
        check_run(tmp_path, several, {**several, "seed": 20240102, "bf16": False, "number of items per step": 16})
    assert "another bf16, per_device_train_batch_size × gradient_accumulation_steps × number of processes (8 " \
           "there, 16 here), seed (20240101 there, 20240102 here); choose" in str(caught.value)  # fmt: skip
    checkpoint(tmp_path, 8)
    capsys.readouterr()
    assert last_checkpoint(tmp_path, RUN) == str(tmp_path / "checkpoint-8")
    left_out = (
        "checkpoint-10: is of a run with another learning_rate (0.2 there, 0.1 here): checkpoint-10 is left out\n"
    )
    assert capsys.readouterr().err.endswith(left_out)
    longer = {**RUN, "max_steps": 40}
    assert last_checkpoint(tmp_path, longer) == str(tmp_path / "checkpoint-8")
    assert last_checkpoint(tmp_path, {**RUN, "max_steps": 7}, last_step=7) is None
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


@pytest.mark.parametrize("is_there", [True, False])
def test_a_dry_run_leaves_the_output_folder_as_it_was(inputs, tmp_path, is_there):
    out = tmp_path / "some" / "out"
    if is_there:
        out.mkdir(parents=True)
    about = TrainConfig(model=str(inputs / "policy"), episodes=[str(inputs / "episodes")], dry_run=True)
    assert train(about, config(out, max_steps=1))["episodes"] == 12
    assert out.exists() is out.parent.exists() is is_there
    assert not list(out.glob("*"))


def test_a_fraction_of_an_epoch_goes_on_to_its_last_step(inputs, tmp_path):
    out = tmp_path / "out"  # 3 steps of 5 micro-batches; after the second, 10 of 12 are more than 0.7 epochs
    given = {"max_steps": -1, "num_train_epochs": 0.7, "save_steps": 1, "per_device_train_batch_size": 1,
             "gradient_accumulation_steps": 5}  # fmt: skip
    trained(inputs, out, **given)
    before, steps = files(out), sorted(p.name for p in out.glob("checkpoint-*"))
    state = json.loads((out / steps[-2] / "trainer_state.json").read_text())
    assert state["epoch"] >= 0.7
    shutil.rmtree(out / steps[-1])
    (out / "run.json").unlink()
    trained(inputs, out, **given)
    assert files(out) == before


def test_fewer_epochs_are_those_of_a_run_of_so_many(inputs, tmp_path, capsys):
    long, short = tmp_path / "long", tmp_path / "short"
    given = {"max_steps": -1, "save_strategy": "epoch", "lr_scheduler_type": "constant"}
    trained(inputs, long, num_train_epochs=2, **given)
    trained(inputs, long, num_train_epochs=1, **given)
    assert "checkpoint-6: is past the 3 steps of this run" in capsys.readouterr().err
    trained(inputs, short, num_train_epochs=1, **given)
    mine, fresh = files(long), files(short)
    assert mine["policy/model.safetensors"] == fresh["policy/model.safetensors"]
    assert mine["curves.json"] == fresh["curves.json"]


def test_a_run_that_starts_over_and_is_killed_goes_on(inputs, whole, tmp_path, monkeypatch, terminating):
    out, other = tmp_path / "out", {"learning_rate": 1e-4}
    trained(inputs, tmp_path / "undisturbed", **other)
    shutil.copytree(whole, out)
    with monkeypatch.context() as patched:
        ending_at_step(patched, 1, 1)
        with pytest.raises(Terminated):
            trained(inputs, out, resume_from_checkpoint="false", **other)
    trained(inputs, out, **other)
    assert files(out)["policy/model.safetensors"] == files(tmp_path / "undisturbed")["policy/model.safetensors"]


def test_what_was_left_in_the_folder_of_a_checkpoint_is_no_part_of_it(inputs, tmp_path):
    left = tmp_path / "out" / "checkpoint-2" / "since_log_1.pt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of another process")
    trained(inputs, tmp_path / "out")
    assert (left.parent / WHOLE).exists()
    assert not left.exists()


def test_a_signal_to_another_process_ends_this_one_too(tmp_path, terminating):
    run = trainer(tmp_path)
    around = _AroundSteps(run)
    run.is_in_train = around._ends = True
    went_on = []

    def saved():
        with saving_at_sigterm(run):
            around.on_save(None, None, None)
            went_on.append(True)

    with pytest.raises(Terminated):
        saved()
    assert not went_on


@pytest.mark.parametrize(
    ("one", "other"),
    [({"r": 2}, {"r": 4}), ({"lora_alpha": 1}, {"lora_alpha": 2}), ({}, {"target_modules": ["q_proj"]})],
)
def test_another_adapter_is_another_run(one, other, tmp_path):
    def identity(**settings):
        given = LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], **settings})
        run = trainer(tmp_path, peft_config=given).identity
        return json.dumps(run, default=str)

    assert identity(**one) == identity(**one) != identity(**other)


def test_settings_that_change_the_run(tmp_path):
    with pytest.raises(InputError, match="save_only_model: leaves checkpoints that training cannot resume from"):
        config(tmp_path, save_only_model=True)
    assert trainer(tmp_path).identity != trainer(tmp_path, dataloader_drop_last=True).identity


def test_the_folder_of_another_run_is_refused_and_a_longer_run_goes_on(inputs, whole, tmp_path, caplog):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = files(out)
    with pytest.raises(
        InputError, match=r"out: is of a run with another learning_rate \(0.001 there, 0.0001 here\); choose another"
    ):
        trained(inputs, out, learning_rate=1e-4)
    with pytest.raises(InputError, match="out: is of a run with another method"):
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


def test_a_whole_checkpoint_stays_where_another_process_is_lost_after_it(inputs, whole, tmp_path, monkeypatch):
    """The last wait of a save fails: once a checkpoint is whole, that is no reason to remove it."""
    from accelerate import Accelerator

    out = tmp_path / "out"

    def wait(self):
        if (out / "checkpoint-4" / WHOLE).exists():
            raise RuntimeError("connection closed by peer")

    with monkeypatch.context() as patched:
        patched.setattr(Accelerator, "wait_for_everyone", wait)
        with pytest.raises(RuntimeError, match="closed by peer"):
            trained(inputs, out)
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    check_checkpoint(out / "checkpoint-4")
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
