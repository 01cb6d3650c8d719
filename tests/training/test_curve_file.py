"""The curve of a training as a file that grows with it."""

import json
from types import SimpleNamespace

import pytest
from test_trainer import trainer
from transformers import TrainerCallback

from stepcredit.training import curve_file
from stepcredit.training.curve_file import CurveFile, curve
from stepcredit.training.progress_callback import show_progress


def read(folder):
    return json.loads((folder / "curves.json").read_text())


def test_the_curve_has_the_logged_metrics_without_timings():
    log = [
        {"step": 1, "loss": 0.5, "kl": 0.1, "train_runtime": 3.0},
        {"step": 2, "eval_loss": 0.4, "eval_samples_per_second": 9.0, "total_flos": 7.0},
        {"step": 2, "train_loss": 0.45},
    ]
    assert curve(log) == [{"kl": 0.1, "loss": 0.5, "step": 1}, {"eval_loss": 0.4, "step": 2}]


def test_each_point_is_in_the_file_while_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(curve_file, "_PAUSE", 0.0)
    seen = []

    class Reader(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            seen.append([point["step"] for point in read(tmp_path)["oreo"]])

    run = trainer(tmp_path)
    show_progress(run, "oreo")
    run.add_callback(Reader())
    run.train()
    assert seen == [[1], [1, 2], [1, 2, 3], [1, 2, 3]]
    assert read(tmp_path) == {"oreo": curve(run.state.log_history)}


@pytest.mark.parametrize(("every", "steps"), [(10, [3]), (2, [2])])
def test_the_last_step_is_logged_where_no_other_was(every, steps, tmp_path):
    run = trainer(tmp_path, logging_steps=every)
    show_progress(run, "oreo")
    run.train()
    assert [point["step"] for point in read(tmp_path)["oreo"]] == steps


def test_writes_pause_and_the_last_one_is_whole(tmp_path, monkeypatch):
    now = iter([0.0, 0.0, 1.9, 2.1, 2.1, 9.0])
    monkeypatch.setattr(curve_file.time, "monotonic", lambda: next(now))
    file, state = CurveFile("sft", tmp_path), SimpleNamespace(is_world_process_zero=True, log_history=[])
    counts = []
    for step in range(1, 4):
        state.log_history.append({"step": step, "loss": 1.0})
        file.on_log(None, state, None)
        counts.append(len(read(tmp_path)["sft"]))
    assert counts == [1, 1, 3]
    state.log_history.append({"step": 4, "loss": 1.0})
    file.on_train_end(None, state, None)
    assert len(read(tmp_path)["sft"]) == 4


def test_other_processes_write_nothing(tmp_path):
    state = SimpleNamespace(is_world_process_zero=False, log_history=[{"step": 1, "loss": 1.0}])
    file = CurveFile("sft", tmp_path)
    file.on_log(None, state, None)
    file.on_train_end(None, state, None)
    assert not (tmp_path / "curves.json").exists()
