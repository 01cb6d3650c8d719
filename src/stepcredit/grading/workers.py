"""Pool of worker processes for work that may not terminate, such as comparisons; killed workers are replaced."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from stepcredit.errors import InputError

COMMAND = ["-m", "stepcredit.grading.worker"]
"""Arguments of Python for the process that compares answers."""


@dataclass(frozen=True)
class Reply:
    """Reply of a worker.

    Attributes:
        equal: whether the answers are equal; None where that could not be decided.
        reason: why not.
        spent: processor seconds.
    """

    equal: bool | None
    reason: str
    spent: float


class Workers:
    """A pool of `count` worker processes, started when first needed; safe to use from many threads.

    Processes of their own rather than `multiprocessing`: they neither import the user's script again nor need
    it to be guarded, can be started from daemonic processes and threads, and load no torch.

    Args:
        count: processes at a time.
        command: arguments of Python for another process; see `stepcredit.grading.worker.serve`.
    """

    def __init__(self, count: int = 1, command: Sequence[str] = ()) -> None:
        self._command = command or COMMAND
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)
        self._started: list[_Process] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        atexit.register(self.close)

    def compare(self, gold: str, answer: str, seconds: float) -> Reply:
        """Whether two answers are equal.

        Args:
            gold, answer: LaTeX.
            seconds: as in `ask`.

        Raises:
            InputError: the workers cannot be started.
        """
        said = self.ask({"gold": gold, "answer": answer}, seconds)
        return Reply(said.get("equal"), said.get("reason", ""), said["spent"])

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The reply of whichever worker is free; waits where none is. It has a `reason` if the worker was ended.

        Args:
            request: JSON-serialisable.
            seconds: of processor time; on the clock a few times that.

        Raises:
            InputError: the workers cannot be started.
        """
        process = self._idle.get()
        try:
            if process is None or not process.is_alive():
                process = self._start()
            process.wait_until_ready()
            return process.ask({**request, "seconds": seconds})
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End all processes. They end by themselves, too, when this process does."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            for process in self._started:
                process.close()
            self._started.clear()

    def _start(self) -> _Process:
        process = _Process(self._command)
        with self._lock:
            dead = [p for p in self._started if not p.is_alive()]
            self._started = [p for p in self._started if p not in dead] + [process]
        for one in dead:  # killed from outside: their pipes are still open
            one.close()
        return process


class _Process:
    """One keeper and its pipes."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout
        self._ready = False

    def wait_until_ready(self) -> None:
        """Until it has loaded what it needs.

        Raises:
            InputError: it ended instead, with its last words.
        """
        if self._ready:
            return
        if not self._out.readline():
            assert self._process.stderr is not None
            *_, last = ["no message", *self._process.stderr.read().strip().splitlines()]
            raise InputError(f"the grader's worker does not start: {last}", "grading")
        self._ready = True

    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its reply; a reason alone where it has been killed."""
        start = time.monotonic()
        try:
            self._in.write(json.dumps(request) + "\n")
            self._in.flush()
            line = self._out.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            self.close()
            return {"reason": "the worker was killed", "spent": time.monotonic() - start}
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        """Close its input, at which it ends; kill it where it does not."""
        with contextlib.suppress(BrokenPipeError):
            self._in.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        if self._process.stderr is not None:
            self._process.stderr.close()
