"""A process of two is killed in the middle of training: the run ends, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepcredit.cli import main

pytestmark = pytest.mark.long
SECONDS = 240
TRAINING = (
    "train --method oreo --model policy --episodes episodes --max_steps 12 --save_strategy steps --save_steps 2 "
    "--use_cpu true --report_to none --logging_steps 2 --warmup_steps 0"
)


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    """A folder with a policy and episodes."""
    from stepcredit.episodes.store import append_episodes
    from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
    from stepcredit.tasks.arithmetic import Arithmetic

    folder, task = tmp_path_factory.mktemp("materials"), Arithmetic()
    tokenizer = task.tokenizer()
    policy_from_scratch(tokenizer, ModelSize(16, 32, 2, 2), seed=0).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    append_episodes(folder / "episodes", task.demonstrations(24, 0))
    return folder


def started(materials, out):
    """Two processes of training under torchrun, in a session of their own."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    training = ["stepcredit.cli", *TRAINING.split(), "--per_device_train_batch_size", "2", "--output_dir", str(out)]
    return subprocess.Popen(
        [*launch, *training], cwd=materials, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(launcher):
    """(exit code, what was said) of a run; one that does not end is killed with all its processes."""
    try:
        said, _ = launcher.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        said, _ = launcher.communicate()
    return launcher.returncode, said


def workers(launcher):
    """Process ids of the training processes of a launcher."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(pid) for pid in children]


def test_a_run_that_loses_a_process_ends_and_goes_on(materials, tmp_path, monkeypatch, capsys):
    code, said = ended(started(materials, tmp_path / "whole"))
    assert code == 0, said[-3000:]

    broken = started(materials, tmp_path / "broken")
    until = time.monotonic() + SECONDS
    while not list((tmp_path / "broken").glob("checkpoint-2/whole.json")) and time.monotonic() < until:
        time.sleep(0.005)
    pids = workers(broken)
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    code, said = ended(broken)
    assert code == 1, said[-3000:]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not (tmp_path / "broken" / "policy").exists()

    kept = (tmp_path / "broken" / "checkpoint-2" / "whole.json").stat().st_mtime_ns
    code, said = ended(started(materials, tmp_path / "broken"))
    assert code == 0, said[-3000:]
    assert (tmp_path / "broken" / "checkpoint-2" / "whole.json").stat().st_mtime_ns == kept
    for part in ("policy", "value"):
        paths = (tmp_path / name / part / "model.safetensors" for name in ("whole", "broken"))
        assert len({path.read_bytes() for path in paths}) == 1, part

    monkeypatch.chdir(materials)
    assert (
        main([*TRAINING.split(), "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "broken")]) == 0
    )
    assert "this training run is finished; nothing is left to do" in capsys.readouterr().err
