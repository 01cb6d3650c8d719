"""Many conversations beside each other: in this process, or in worker processes that may crash or hang.

What an environment does to its process is not ours to trust: a worker that dies or does not answer in time is replaced,
and the conversations that lived in it are crashed, which is neither right nor wrong.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType

from stepcredit.errors import InputError
from stepcredit.tasks.environment import Crash, Environment, Observation
from stepcredit.tasks.task import Problem

START = 300.0
"""Seconds in which a worker process must have loaded what it needs."""
GRACE = 5.0
"""Seconds that closed workers have to let go of what they hold, before they are killed."""
NEVER = Crash("this conversation was never begun")


class LocalEnvironments:
    """Conversations in this process, stepped one after another; made when first needed, and made again after a crash.

    An exception of an environment is a `Crash` with its type and message. A conversation that has crashed, or was never
    begun, answers every step with a `Crash` until it is reset. A context manager that closes all environments.

    Args:
        make: a new environment.
    """

    def __init__(self, make: Callable[[], Environment]) -> None:
        self._make = make
        self._held: dict[int, Environment | Crash] = {}
        self._spare: list[Environment] = []

    def reset(self, problems: Mapping[int, Problem]) -> dict[int, Observation | Crash]:
        """Begin these, wherever they were before.

        Raises:
            InputError: `make` raised it: no environment can be made until the user has mended something.
        """
        return {number: self._begin(number, problem) for number, problem in problems.items()}

    def step(self, replies: Mapping[int, str]) -> dict[int, Observation | Crash]:
        """The answers to these replies; the others wait."""
        return {number: self._go_on(number, reply) for number, reply in replies.items()}

    def release(self, numbers: Iterable[int]) -> None:
        """These conversations are over: others may take their environments."""
        for number in numbers:
            held = self._held.pop(number, NEVER)
            if not isinstance(held, Crash):
                self._spare.append(held)

    def close(self) -> None:
        """Close all environments. Nothing is begun any more; a reset makes new ones."""
        self.release(list(self._held))
        with contextlib.ExitStack() as stack:  # closes all of them even if one raises
            while self._spare:
                stack.callback(self._spare.pop().close)

    def __enter__(self) -> LocalEnvironments:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, number: int, problem: Problem) -> Observation | Crash:
        self.release([number])
        environment = self._spare.pop() if self._spare else self._made()
        self._held[number] = environment
        if isinstance(environment, Crash):
            return environment
        return self._answer(number, environment, problem)

    def _go_on(self, number: int, reply: str) -> Observation | Crash:
        environment = self._held.get(number, NEVER)
        return environment if isinstance(environment, Crash) else self._answer(number, environment, reply)

    def _made(self) -> Environment | Crash:
        try:
            return self._make()
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001  whatever an environment raises: undecided, with the reason
            return Crash(_told(error))

    def _answer(self, number: int, environment: Environment, asked: Problem | str) -> Observation | Crash:
        try:
            return environment.reset(asked) if isinstance(asked, Problem) else environment.step(asked)
        except Exception as error:  # noqa: BLE001  whatever an environment raises: undecided, with the reason
            crash = Crash(_told(error) + _closing(environment))
        self._held[number] = crash
        return crash


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _closing(environment: Environment) -> str:
    """Close an environment that has crashed; what that raises in turn, to be added to the reason."""
    try:
        environment.close()
    except Exception as error:  # noqa: BLE001  its first exception is the crash; this one is told with it
        return f"; and when closed, {_told(error)}"
    return ""


@dataclass(frozen=True)
class _Request:
    """What a worker is sent: conversations that have left it, and a problem to begin or a reply for each number."""

    released: tuple[int, ...]
    asked: dict[int, Problem | str]


@dataclass(frozen=True)
class _Refusal:
    """An `InputError` on its way to the parent."""

    what: str
    where: str | None

    def error(self) -> InputError:
        """The error again."""
        return InputError(self.what, self.where)


Answer = Observation | Crash | _Refusal


class EnvironmentWorkers:
    """Conversations in worker processes, which answer beside each other; each holds several environments.

    A conversation lives in the worker that the `prompt_id` of its problem points to, so that rollouts of one game meet
    in a process that has loaded it. A worker that dies, or that is silent for too long, is killed and started again; a
    conversation that lived in it answers with a `Crash` until it is reset. An exception inside an environment crashes
    that conversation alone. Conversations with different numbers may run at different steps.

    The workers are "spawned": a script that makes them needs the guard `if __name__ == "__main__":`. They end with this
    process. To be used from one thread; a context manager that ends the workers.

    Args:
        make: a new environment; must be picklable, like the bound method `environment` of a task.
        workers: processes.
        seconds: for each answer, on the clock, one after another in a worker; the first includes making an environment.

    Raises:
        InputError: `make` cannot be sent to a process, or a worker does not start.
    """

    def __init__(self, make: Callable[[], Environment], workers: int, seconds: float = 120.0) -> None:
        if workers < 1:
            raise InputError(f"{workers} worker processes; at least 1 is needed", "workers")
        if seconds <= 0:
            raise InputError(f"{seconds} seconds for an answer; must be positive", "seconds")
        pickled = _pickled(make)
        self._homes: dict[int, _Worker | Crash] = {}
        self._closed = False
        self._workers = [_Worker(pickled, seconds) for _ in range(workers)]
        try:
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                refusal = worker.wait_until_ready()
                if refusal is not None:
                    raise refusal.error()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that run."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def reset(self, problems: Mapping[int, Problem]) -> dict[int, Observation | Crash]:
        """Begin these, wherever they were before.

        Raises:
            InputError: `make` raised it: no environment can be made until the user has mended something.
            RuntimeError: the workers are closed.
        """
        self._replace_the_dead()
        for number, problem in problems.items():
            home = self._workers[zlib.crc32(problem.prompt_id.encode()) % len(self._workers)]
            before = self._homes.get(number)
            if isinstance(before, _Worker) and before is not home:
                before.released.append(number)
            self._homes[number] = home
        return self._ask(problems)

    def step(self, replies: Mapping[int, str]) -> dict[int, Observation | Crash]:
        """The answers to these replies; the others wait.

        Raises:
            RuntimeError: the workers are closed.
        """
        self._replace_the_dead()
        return self._ask(replies)

    def close(self) -> None:
        """End all workers and wait until they have ended; nothing happens the second time."""
        self._closed = True
        self._homes.clear()
        for worker in self._workers:
            worker.dismiss()
        deadline = time.monotonic() + GRACE
        for worker in self._workers:
            worker.end(deadline - time.monotonic())

    def __enter__(self) -> EnvironmentWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, asked: Mapping[int, Problem] | Mapping[int, str]) -> dict[int, Observation | Crash]:
        """All answers, in the order in which they were asked for."""
        answers: dict[int, Answer] = {}
        shares: dict[_Worker, dict[int, Problem | str]] = {}
        for number, words in asked.items():
            home = self._homes.get(number, NEVER)
            if isinstance(home, Crash):
                answers[number] = home
            else:
                shares.setdefault(home, {})[number] = words
        busy = list(shares)
        try:
            for worker in busy:
                worker.ask(shares[worker])
            while busy:
                answers |= self._hear(busy)
                busy = [worker for worker in busy if worker.owed]
        finally:  # interrupted: what they still have to say must not be taken for a later answer
            for worker in busy:
                self._lose(worker, "the call was interrupted")
        return {number: _unless_refused(answers[number]) for number in asked}

    def _hear(self, busy: list[_Worker]) -> dict[int, Answer]:
        """What these workers say next; crashes where one has ended or is too late."""
        heard: dict[int, Answer] = {}
        timeout = min(worker.deadline for worker in busy) - time.monotonic()
        wait([worker.connection for worker in busy], max(0.0, timeout))
        for worker in busy:
            try:
                heard |= worker.hear()
            except _Ended as ended:
                owed = worker.owed
                crash = self._lose(worker, str(ended))
                heard |= dict.fromkeys(owed, crash)
                worker.start()
        return heard

    def _lose(self, worker: _Worker, reason: str) -> Crash:
        """Kill a worker. All conversations that lived in it are lost."""
        worker.end(0.0)
        crash = Crash(reason)
        for number, home in self._homes.items():
            if home is worker:
                self._homes[number] = crash
        return crash

    def _replace_the_dead(self) -> None:
        if self._closed:
            raise RuntimeError("these workers are closed")
        for worker in self._workers:
            if not worker.is_alive():
                self._lose(worker, worker.last_words())
                worker.start()


def _unless_refused(answer: Answer) -> Observation | Crash:
    if isinstance(answer, _Refusal):
        raise answer.error()
    return answer


def _pickled(make: Callable[[], Environment]) -> bytes:
    try:
        return pickle.dumps(make)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"cannot be sent to worker processes ({_told(error)}); make it picklable", "make") from error


class _Ended(Exception):
    """A worker that cannot be asked any more, and why."""


class _Worker:
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
        self._refusal: _Refusal | None = None
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

    def wait_until_ready(self) -> _Refusal | None:
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

    def ask(self, asked: dict[int, Problem | str]) -> None:
        """Ask for these; the answers are heard one by one."""
        self.owed = list(asked)
        if self.wait_until_ready() is None:
            with contextlib.suppress(OSError):  # it has died; who hears it will be told
                self.connection.send(_Request(tuple(self.released), asked))
        self.released = []
        self.deadline = time.monotonic() + (self._seconds if self._ready else 0.0)

    def hear(self) -> dict[int, Answer]:
        """Its next answer, if it has one.

        Raises:
            _Ended: it has died, or has had its time.
        """
        if self._refusal is not None:
            raise _Ended(self._refusal.what)
        if not self.connection.poll():
            if time.monotonic() < self.deadline:
                return {}
            raise _Ended(f"the environment did not answer within {self._seconds:g} seconds")
        try:
            number, answer = self.connection.recv()
        except (EOFError, OSError):
            raise _Ended(self.last_words()) from None
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


def _not_started(reason: str) -> _Refusal:
    return _Refusal(f"a worker process for environments does not start: {reason}", "environment")


def serve(connection: Connection) -> None:
    """What a worker process does: receive `make`, then requests, and answer until there are no more.

    Args:
        connection: to the parent. First comes the pickled `make`, which is answered with None or a refusal; then come
            requests, whose conversations are answered one by one with (number, answer); None, or the end, ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        make = connection.recv()
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001  whatever unpickling raises: the parent raises it again
        connection.send(_refusal(error))
        return
    connection.send(None)
    with LocalEnvironments(make) as held, contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (request := connection.recv()) is not None:
            held.release(request.released)
            for number, asked in request.asked.items():
                connection.send((number, _served(held, number, asked)))


def _served(held: LocalEnvironments, number: int, asked: Problem | str) -> Answer:
    try:
        answers = held.reset({number: asked}) if isinstance(asked, Problem) else held.step({number: asked})
    except InputError as error:
        return _refusal(error)
    return answers[number]


def _refusal(error: Exception) -> _Refusal:
    if isinstance(error, InputError):
        return _Refusal(error.what, error.where)
    return _not_started(f"it cannot load the environment ({_told(error)})")


def _end_with_parent() -> None:
    """End even where an environment hangs, and would never notice that its parent has been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(GRACE)  # in which an environment that does not hang is closed
    os._exit(1)
