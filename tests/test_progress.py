"""Long work that runs into a file says how far it is: on standard error, a line now and then."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest

from doubles.tokenizers import byte_tokenizer
from stepcredit import progress
from stepcredit.cli import main
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import append_episodes
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.progress import Meter, duration, track, track_units
from stepcredit.training import progress_callback as training_progress
from stepcredit.training.progress_callback import TrainingProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move: clock.now."""
    clock = SimpleNamespace(now=1000.0)
    for module in (progress, training_progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def at_once(monkeypatch):
    """A line for everything that is done."""
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    monkeypatch.setattr(progress, "NEXT_LINE", 0.0)
    monkeypatch.setattr(progress, "_SHARE_OF_TIME", float("inf"))


def lines(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_day_is_a_few_hundred_lines(clock, capsys):
    said = []
    for _ in track(range(86_400), "working", 86_400, "items"):
        clock.now += 1
        said += [clock.now - 1000] * len(lines(capsys))
    end = lines(capsys)
    assert said[0] == 6.0  # after the item that was done when five seconds were over
    assert said[1] == 36.0
    assert said[-1] > 86_000
    gaps = [later - earlier for earlier, later in pairwise(said)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 300
    assert 250 < len(said) < 400
    assert end == ["working: 86,400 of 86,400 items (100%), 1 d, 1.0/s"]


def test_what_a_line_says(clock, capsys):
    with Meter("collecting gsm8k", 512, "responses", done=192) as meter:
        clock.now += 64
        meter.advance(64)
        assert lines(capsys) == ["collecting gsm8k: 256 of 512 responses (50%), 1 min 4 s, 1.0/s, 4 min 16 s left"]
        clock.now += 256
        meter.note = "loss 0.5"
        meter.advance(16)
    assert lines(capsys) == [
        "collecting gsm8k: 272 of 512 responses (53%), 5 min 20 s, 4 s each, 16 min left, loss 0.5"
    ]


def test_a_line_says_how_many_tokens_are_sampled_in_a_second(clock, capsys):
    with Meter("collecting gsm8k", 512, "responses", done=192) as meter:
        clock.now += 64
        meter.advance(64, tokens=64_000)
        meter.note = "loss 0.5"
        clock.now += 36
        meter.advance(64, tokens=56_000)
    assert [line.split(" left, ")[1] for line in lines(capsys)] == [
        "1,000 response tokens/s",
        "1,200 response tokens/s, loss 0.5",
    ]


def test_without_a_total_a_share_says_how_far(clock, capsys):
    with Meter("importing a.jsonl", None, "rows") as meter:
        clock.now += 10
        meter.advance(120_000, share=0.25)
        assert lines(capsys) == ["importing a.jsonl: 120,000 rows (25%), 10 s, 12,000/s, 30 s left"]


def test_short_work_and_work_that_fails_end_in_silence(clock, capsys):
    for _ in track(range(3), "short", 3):
        clock.now += 1
    broken = track(range(3), "broken", 3)
    assert [next(broken), next(broken)] == [0, 1]
    clock.now += 100
    with pytest.raises(KeyError):
        broken.throw(KeyError())
    assert lines(capsys) == []


def test_a_worker_says_nothing(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_is_worker", True)
    for _ in track(range(3), "hidden", 3):
        clock.now += 100
    assert lines(capsys) == []


def test_on_a_terminal_there_are_no_lines(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    for _ in track(range(3), "watched", 3, "items"):
        clock.now += 100
    assert not any("left" in line for line in lines(capsys))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"), (59.6, "1 min"), (100, "1 min 40 s"), (599, "9 min 59 s"), (600, "10 min"), (3599, "1 h"),
        (11_100, "3 h 5 min"), (86_400, "1 d"), (187_300, "2 d 4 h"),
    ],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_responses_are_counted_within_a_work_unit(at_once, capsys):
    for unit, advance in track_units([["one", "two"]], "collecting arithmetic", 3):
        assert unit == ["one", "two"]
        advance(1)
        advance(2)
    assert [line.split(",")[0] for line in lines(capsys)] == [
        "collecting arithmetic: 1 of 6 responses (17%)",
        "collecting arithmetic: 3 of 6 responses (50%)",
    ]


@pytest.fixture
def small(tmp_path):
    """(a policy's folder, a folder of episodes)."""
    tokenizer = byte_tokenizer()
    policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    rows = [Episode(prompt=f"{k}+1=", completion=f"{k + 1}", reward=float(k % 2), prompt_id=str(k)) for k in range(32)]
    append_episodes(tmp_path / "episodes", rows)
    return tmp_path / "policy", tmp_path / "episodes"


RUN = """
import sys
from stepcredit import progress
progress.FIRST_LINE = progress.NEXT_LINE = 0.0
from stepcredit.cli import main
sys.exit(main(sys.argv[1:]))
"""
TRAINED = re.compile(
    r"oreo: (\d+) of 30 steps \(\d+%\), .*(/s|each), (\d+ min )?\d+ s left, loss -?[\d.e-]+, [\d,]+ response tokens/s"
)


def test_a_training_into_a_file_says_how_it_goes(small, tmp_path):
    policy, episodes = small
    flags = ["--model", policy, "--episodes", episodes, "--output_dir", tmp_path / "out", "--max_steps", "30"]
    flags += ["--per_device_train_batch_size", "4", "--logging_steps", "2", "--report_to", "none", "--use_cpu", "true"]
    flags += ["--eval_episodes", episodes, "--eval_strategy", "steps", "--eval_steps", "15"]
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-c", RUN, "train", "--method", "oreo", *map(str, flags)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=300, check=False)
    text = (tmp_path / "log").read_text()
    assert done.returncode == 0, text
    found = [int(match[1]) for line in text.splitlines() if (match := TRAINED.fullmatch(line))]
    assert found == sorted(set(found))
    assert len(found) > 3
    assert re.search(r"^evaluating: \d of 4 batches", text, re.MULTILINE)
    last = [line for line in text.splitlines() if line.startswith("oreo: ")][-1]
    assert last.startswith("oreo: 30 of 30 steps (100%), ")
    assert " left" not in last
    assert "\r" not in text
    assert "it/s" not in text
    assert "loss" in last


def test_without_a_log_the_last_line_has_the_mean_loss(clock, capsys):
    shown = TrainingProgress("sft")
    state = SimpleNamespace(is_world_process_zero=True, max_steps=2, global_step=0)
    args, control = SimpleNamespace(), SimpleNamespace(should_log=False)
    shown.on_train_begin(args, state, control)
    for state.global_step in (1, 2):
        clock.now += 20
        shown.on_step_end(args, state, control)
    shown.on_log(args, state, control, {"train_loss": 0.25, "num_tokens": 400})
    shown.on_train_end(args, state, control)
    assert lines(capsys)[-1] == "sft: 2 of 2 steps (100%), 40 s, 20 s each, loss 0.25, 10 response tokens/s"


def test_json_stays_json(small, at_once, capsys):
    _, episodes = small
    assert main(["inspect", str(episodes), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["episodes"] == 32
    assert captured.err.splitlines()[-1].startswith("reading: 32 of 32 episodes (100%)")


def test_import_and_grade_and_collect_say_how_they_go(small, at_once, tmp_path, capsys):
    policy, _ = small
    logs = tmp_path / "a.jsonl"
    logs.write_text('{"prompt": "q", "response": "#### 1", "answer": "1"}\n' * 3)
    assert main(["grade", str(logs), "--output", str(tmp_path / "b.jsonl"), "--answers", "number"]) == 0
    assert "grading a.jsonl: 3 rows (100%)" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "b.jsonl"), "--output_dir", str(tmp_path / "e")]) == 0
    assert "importing b.jsonl: 3 rows (100%)" in capsys.readouterr().err
    command = ["collect", "--task", "arithmetic", "--model", str(policy), "--output_dir", str(tmp_path / "c")]
    assert main([*command, "--limit", "4", "--num_generations", "2", "--max_new_tokens", "2"]) == 0
    captured = capsys.readouterr()
    said = captured.err.splitlines()
    assert all(re.search(r", [\d,]+ response tokens/s$", line) for line in said)
    assert re.search(r"4 prompts, 8 responses, 0 units_resumed, \d+ response tokens/s$", captured.out, re.MULTILINE)
    assert [line.split(" (")[0] for line in said] == [
        f"collecting arithmetic: {k} of 8 responses" for k in range(1, 9)
    ]  # fmt: skip
