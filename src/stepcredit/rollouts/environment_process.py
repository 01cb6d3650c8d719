"""Worker process of environments: the child's side of the connection and the parent's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from stepcredit.errors import InputError
from stepcredit.processes import end_with_parent, uninterrupted
from stepcredit.rollouts.local_environments import LocalEnvironments, name_and_message
from stepcredit.tasks.environment import Crash, Observation
from stepcredit.tasks.task import Problem

START = 300.0
"""Timeout in seconds for a worker process to start."""
GRACE = 5.0
"""Seconds that closed workers have to clean up before they are killed."""

Answer = Observation | Crash | InputError
"""Answer of a worker; the parent raises an `InputError`, which the user can fix."""


class WorkerEndedError(Exception):
    """A worker process has ended or timed out."""


class EnvironmentWorker:
    """Handle of a worker process, which can be restarted.

    Attributes:
        connection: connection to the process.
        owed: indices of requests that it has not answered yet.
        released: indices of conversations that have left it since the last request.
        deadline: deadline of its next answer.
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
        """Process id; None if there is no process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start a process, without waiting until it is ready."""
        context = multiprocessing.get_context("spawn")
        with uninterrupted():
            self.connection, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._process, self._ready, self._refusal = process, False, None
        with contextlib.suppress(OSError):  # the process has died: `wait_until_ready` reports it
            self.connection.send_bytes(self._make)

    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.is_alive()

    def wait_until_ready(self) -> InputError | None:
        """Wait until the process is ready; returns the error if it cannot start."""
        if not self._ready and self._refusal is None:
            try:
                if self.connection.poll(START):
                    self._refusal = self.connection.recv()
                else:
                    self._refusal = _not_started(f"no answer for {START:g} seconds")
            except (EOFError, OSError):
                self._refusal = _not_started(f"{self.exit_reason()}; see its error output")
        self._ready = self._refusal is None
        return self._refusal

    def ask(self, requests: dict[int, Problem | str]) -> None:
        """Send requests; `hear` receives the answers one by one."""
        self.owed = list(requests)
        if self.wait_until_ready() is None:
            with contextlib.suppress(OSError):  # the process has died: `hear` reports it
                self.connection.send((self.released, requests))
        self.released = []
        self.deadline = time.monotonic() + (self._seconds if self._ready else 0.0)

    def hear(self) -> dict[int, Answer]:
        """Returns the next answer, or nothing if there is none yet.

        Raises:
            WorkerEndedError: the process has died or timed out.
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
            raise WorkerEndedError(self.exit_reason()) from None
        self.owed.remove(number)
        self.deadline = time.monotonic() + self._seconds
        return {number: answer}

    def exit_reason(self) -> str:
        """Returns how the process ended; waits until it has."""
        if self._process is None:
            return "the environment's worker was not started"
        self._process.join(GRACE)
        code = self._process.exitcode
        if code is None:
            return "the environment's worker closed its connection"
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"the environment's worker {ended}"

    def dismiss(self) -> None:
        """Ask the process to exit."""
        if self.is_alive():
            with contextlib.suppress(OSError):  # it has died in the meantime
                self.connection.send(None)

    def end(self, seconds: float) -> None:
        """Wait for the process to exit, and kill it after `seconds`."""
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
    """Main function of a worker process: receives `make`, then requests, and answers them until the end.

    Args:
        connection: connection to the parent. It first sends the pickled `make`, answered with None or an error; then
            pairs (indices of released conversations, a problem to reset to or a reply per index), answered one by one
            with (index, answer). None or a closed connection ends the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # handled by the parent
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    end_with_parent(GRACE)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has died
        _serve(connection)


def _serve(connection: Connection) -> None:
    try:
        make = connection.recv()
    except EOFError:
        raise
    except InputError as error:
        connection.send(error)
        return
    except Exception as error:  # noqa: BLE001  unpickling may raise anything; the parent raises it again
        connection.send(_not_started(f"it cannot load the environment ({name_and_message(error)})"))
        return
    connection.send(None)
    with LocalEnvironments(make) as local:
        while (message := connection.recv()) is not None:
            released, requests = message
            local.release(released)
            for number, request in requests.items():
                connection.send((number, _answer(local, number, request)))


def _answer(local: LocalEnvironments, number: int, request: Problem | str) -> Answer:
    try:
        answers = local.reset({number: request}) if isinstance(request, Problem) else local.step({number: request})
    except InputError as error:
        return InputError(error.what, error.where)  # a subclass might not be picklable
    return answers[number]
