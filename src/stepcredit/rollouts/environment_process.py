"""A worker process that holds environments: its side of the connection, and the parent's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from stepcredit.errors import InputError
from stepcredit.rollouts.local_environments import LocalEnvironments, name_and_message
from stepcredit.tasks.environment import Crash, Observation
from stepcredit.tasks.task import Problem

START = 300.0
"""Seconds in which a worker process must have loaded what it needs."""
GRACE = 5.0
"""Seconds that closed workers have to let go of what they hold, before they are killed."""

Answer = Observation | Crash | InputError
"""An `InputError` is the user's to mend: the parent raises it."""


class WorkerEndedError(Exception):
    """A worker that cannot be asked any more, and why."""


class EnvironmentWorker:
    """One process at a time, and what is known about it.

    Attributes:
        connection: to the process.
        owed: the numbers that it has been asked for and has not answered.
        released: the numbers that have left it since it was last asked.
        deadline: of its next answer.
    """

    connection: Connection

    def __init__(self, make: bytes, seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._process: SpawnProcess | None = None
        self._ready = False
        self._refusal: InputError | None = None
        self.owed: list[int] = []
        self.released: list[int] = []
        self.deadline = 0.0

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start a process; it loads what it needs while others do something else."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._process, self._ready, self._refusal = process, False, None
        with contextlib.suppress(OSError):  # it has died; who waits for it will hear
            self.connection.send_bytes(self._make)

    def is_alive(self) -> bool:
        """Whether there is a process that runs."""
        return self._process is not None and self._process.is_alive()

    def wait_until_ready(self) -> InputError | None:
        """Until it has loaded what it needs; what it says where it cannot."""
        if not self._ready and self._refusal is None:
            try:
                if self.connection.poll(START):
                    self._refusal = self.connection.recv()
                else:
                    self._refusal = _not_started(f"it was silent for {START:g} seconds")
            except (EOFError, OSError):
                self._refusal = _not_started(f"{self.last_words()}; its error output tells more")
        self._ready = self._refusal is None
        return self._refusal

    def ask(self, requests: dict[int, Problem | str]) -> None:
        """Ask for these; the answers are heard one by one."""
        self.owed = list(requests)
        if self.wait_until_ready() is None:
            with contextlib.suppress(OSError):  # it has died; who hears it will be told
                self.connection.send((self.released, requests))
        self.released = []
        self.deadline = time.monotonic() + (self._seconds if self._ready else 0.0)

    def hear(self) -> dict[int, Answer]:
        """Its next answer, if it has one.

        Raises:
            WorkerEndedError: it has died, or has had its time.
        """
        if self._refusal is not None:
            raise WorkerEndedError(self._refusal.what)
        if not self.connection.poll():
            if time.monotonic() < self.deadline:
                return {}
            raise WorkerEndedError(f"the environment did not answer within {self._seconds:g} seconds")
        try:
            number, answer = self.connection.recv()
        except (EOFError, OSError):
            raise WorkerEndedError(self.last_words()) from None
        self.owed.remove(number)
        self.deadline = time.monotonic() + self._seconds
        return {number: answer}

    def last_words(self) -> str:
        """What its process, which has ended or is about to, ended with."""
        if self._process is None:
            return "the environment's worker was not started"
        self._process.join(GRACE)
        code = self._process.exitcode
        if code is None:
            return "the environment's worker closed its connection"
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"the environment's worker {ended}"

    def dismiss(self) -> None:
        """Tell it that nothing more will be asked."""
        if self.is_alive():
            with contextlib.suppress(OSError):  # it has died meanwhile
                self.connection.send(None)

    def end(self, seconds: float) -> None:
        """Wait so long until it has ended; kill it where it has not."""
        if self._process is None:
            return
        self._process.join(max(0.0, seconds))
        self._process.kill()
        self._process.join()
        self._process.close()
        self.connection.close()
        self._process, self.owed, self.released = None, [], []


def _not_started(reason: str) -> InputError:
    return InputError(f"a worker process for environments does not start: {reason}", "environment")


def serve(connection: Connection) -> None:
    """What a worker process does: receive `make`, then requests, and answer until there are no more.

    Args:
        connection: to the parent. First comes the pickled `make`, which is answered with None or an error; then come
            pairs: (the conversations that have left, a problem to begin or a reply for each number). They are
            answered one by one with (number, answer); None, or the end, ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        make = connection.recv()
    except EOFError:
        return
    except InputError as error:
        connection.send(error)
        return
    except Exception as error:  # noqa: BLE001  whatever unpickling raises: the parent raises it again
        connection.send(_not_started(f"it cannot load the environment ({name_and_message(error)})"))
        return
    connection.send(None)
    with LocalEnvironments(make) as held, contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (message := connection.recv()) is not None:
            released, requests = message
            held.release(released)
            for number, words in requests.items():
                connection.send((number, _answer(held, number, words)))


def _answer(held: LocalEnvironments, number: int, words: Problem | str) -> Answer:
    try:
        answers = held.reset({number: words}) if isinstance(words, Problem) else held.step({number: words})
    except InputError as error:
        return InputError(error.what, error.where)  # which can be pickled, whatever class it was
    return answers[number]


def _end_with_parent() -> None:
    """End even where an environment hangs, and would never notice that its parent has been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(GRACE)  # in which an environment that does not hang is closed
    os._exit(1)
