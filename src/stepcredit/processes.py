"""Pools of worker processes, which end with their parent however it ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial


@contextmanager
def worker_pool(workers: int, initializer: Callable[[], object] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Context manager of a process pool: workers finish their work at the end of the block, and are terminated if the
    block raises, so that an interrupted command does not wait for hours of running work, or if this process is killed.

    Args:
        workers: number of processes; they are spawned, not forked.
        initializer: called once in each process, before its work.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=partial(_begin, initializer)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            started = set(multiprocessing.active_children()) - others
            for worker in started:
                worker.terminate()
            for worker in started:
                worker.join()
            raise


def _begin(initializer: Callable[[], object] | None) -> None:
    end_with_parent()
    if initializer is not None:
        initializer()


def end_with_parent(grace: float = 0.0) -> None:
    """Makes this process, started by `multiprocessing`, end when its parent does, even if that is killed: a worker of a
    pool would otherwise wait for work for ever.

    Args:
        grace: seconds that this process has to clean up.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a process of multiprocessing"

    def watch() -> None:
        parent.join()
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
