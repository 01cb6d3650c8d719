"""Worker processes, which are started whole and end with their parent however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Context manager that delays SIGINT and SIGTERM to the end of the block: a process that `multiprocessing` has
    started by halves shows a traceback of Python's own. No effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in handled}
    try:
        yield
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
        if came:
            signal.raise_signal(came[0])


class _WholeProcess(SpawnProcess):
    def start(self) -> None:
        with uninterrupted():
            super().start()


class _WholeContext(SpawnContext):
    Process = _WholeProcess


@contextmanager
def worker_pool(workers: int, initializer: Callable[[], object] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Context manager of a process pool: workers finish their work at the end of the block, and are terminated if the
    block raises, so that an interrupted command does not wait for hours of running work, or if this process is killed.

    Args:
        workers: number of processes; they are spawned, not forked.
        initializer: called once in each process, before its work.
    """
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=_WholeContext(), initializer=partial(_begin, initializer)) as pool:
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
