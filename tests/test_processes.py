"""Worker pools: results as of a plain pool, and workers that end at once where the block raises."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepcredit.processes import uninterrupted, worker_pool


def test_results_and_the_end_of_the_workers():
    with worker_pool(2) as pool:
        assert list(pool.map(abs, [-1, 2, -3])) == [1, 2, 3]


def sleeps_when_interrupted(pool):
    running = pool.submit(time.sleep, 600)
    while not running.running():
        time.sleep(0.01)
    raise KeyboardInterrupt


def test_an_interrupted_block_does_not_wait_for_running_work():
    start, before = time.monotonic(), set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:
        sleeps_when_interrupted(pool)
    assert time.monotonic() - start < 60
    assert set(multiprocessing.active_children()) <= before


PARENT = """
import multiprocessing, os, sys, time
from stepcredit.processes import worker_pool

if __name__ == "__main__":
    with worker_pool(2) as pool:
        pids = {pool.submit(os.getpid).result() for _ in range(50)}
        pool.submit(time.sleep, 600)  # one is at work, the other waits for some
        print(*pids, flush=True)
        time.sleep(600)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        assert all(is_running(pid) for pid in pids)
        parent.kill()
    end = time.monotonic() + 30
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"  # nobody may wait for it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_end_of_a_block(number):
    def told(number, frame):
        raise KeyboardInterrupt(number)

    before = {n: signal.signal(n, told) for n in (signal.SIGINT, signal.SIGTERM)}
    done = []

    @uninterrupted()
    def disturbed():
        signal.raise_signal(number)
        signal.raise_signal(number)
        done.append("all of it")

    try:
        with pytest.raises(KeyboardInterrupt, match=str(int(number))):
            disturbed()
        assert done == ["all of it"]
        assert all(signal.getsignal(n) is told for n in before)
        with uninterrupted():
            pass
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def test_signals_that_are_ignored_stay_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


INTERRUPTED = """
import multiprocessing.util, os, signal
from stepcredit.processes import worker_pool

def interrupted(path, arguments, descriptors):
    pid = start(path, arguments, descriptors)
    if "spawn_main" in str(arguments):  # not the resource tracker
        os.kill(os.getpid(), signal.SIGINT)  # before the new process is told what to do
    return pid

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what runs in its background
    start, multiprocessing.util.spawnv_passfds = multiprocessing.util.spawnv_passfds, interrupted
    try:
        with worker_pool(1) as pool:
            pool.submit(abs, -1).result()
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_a_worker_is_started_whole_where_its_parent_is_interrupted(tmp_path):
    (tmp_path / "parent.py").write_text(INTERRUPTED)
    ended = subprocess.run([sys.executable, tmp_path / "parent.py"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n")
    assert ended.stderr == ""
