"""Pools of worker processes that an interrupt or error terminates."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def worker_pool(workers: int, initializer: Callable[[], object] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Context manager of a process pool: workers finish their work at the end of the block, and are terminated if the
    block raises, so that an interrupted command does not wait for hours of running work.

    Args:
        workers: number of processes; they are spawned, not forked.
        initializer: called once in each process, before its work.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=initializer) as pool:
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
