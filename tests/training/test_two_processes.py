"""Two processes train as one does: losses, metrics and weights after some steps, in double precision."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from process_cases import CASES, SAVED, outcome

HERE = Path(__file__).parent


def in_two_processes(script, *arguments, seconds=240):
    """Runs a script in two processes of one run; their printed lines, if both end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    shared = {**os.environ, "PYTHONPATH": path, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
              "OMP_NUM_THREADS": "1"}  # fmt: skip
    runs = [
        subprocess.Popen([sys.executable, str(HERE / script), *map(str, arguments)], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [run.communicate(timeout=seconds)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0], "\n".join(said)[-4000:]
    return said


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(the folder of the runs of two processes, what came out)."""
    folder = tmp_path_factory.mktemp("two")
    in_two_processes("process_cases.py", folder)
    return folder, torch.load(folder / "found.pt")


def same(found, expected):
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=1e-10, atol=1e-12, msg=name)
    assert len(found["logs"]) == len(expected["logs"])
    for row, wanted in zip(found["logs"], expected["logs"]):
        single = {"loss", "train_loss"}  # transformers adds the losses of micro-batches in single precision
        assert row == {k: pytest.approx(v, rel=1e-6 if k in single else 1e-10, abs=1e-12) for k, v in wanted.items()}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does(case, two, tmp_path):
    same(two[1][case], outcome(case, tmp_path, 1))


def test_a_run_that_two_processes_resume(two):
    weights = two[1]["resumed"]["weights"]
    assert all(torch.equal(p, weights[name]) for name, p in two[1][SAVED]["weights"].items())


def test_one_process_goes_on_where_two_stopped(two, tmp_path):
    folder, found = two
    same(found["resumed"], outcome(SAVED, tmp_path, 1, str(folder / SAVED / "checkpoint-2")))
