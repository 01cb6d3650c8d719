"""Worker pools: results as of a plain pool, and workers that end at once where the block raises."""

import multiprocessing
import time

import pytest

from stepcredit.processes import worker_pool


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
