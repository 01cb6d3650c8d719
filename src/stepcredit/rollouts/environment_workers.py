"""Many conversations beside each other in worker processes, which may crash or hang.

What an environment does to its process is not ours to trust: a worker that dies or does not answer in time is replaced,
and the conversations that lived in it are crashed, which is neither right nor wrong.
"""

from __future__ import annotations

import pickle
import time
import zlib
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait

from stepcredit.errors import InputError
from stepcredit.rollouts.environment_process import GRACE, Answer, EnvironmentWorker, WorkerEndedError
from stepcredit.rollouts.local_environments import NEVER, name_and_message
from stepcredit.tasks.environment import Crash, Environment, Observation
from stepcredit.tasks.task import Problem


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
        try:
            pickled = pickle.dumps(make)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            reason = name_and_message(error)
            raise InputError(f"cannot be sent to worker processes ({reason}); make it picklable", "make") from error
        self._homes: dict[int, EnvironmentWorker | Crash] = {}
        self._closed = False
        self._workers = [EnvironmentWorker(pickled, seconds) for _ in range(workers)]
        try:
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                refusal = worker.wait_until_ready()
                if refusal is not None:
                    raise refusal
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
            if isinstance(before, EnvironmentWorker) and before is not home:
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

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, requests: Mapping[int, Problem] | Mapping[int, str]) -> dict[int, Observation | Crash]:
        """All answers, in the order in which they were asked for."""
        answers: dict[int, Answer] = {}
        shares: dict[EnvironmentWorker, dict[int, Problem | str]] = {}
        for number, words in requests.items():
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
        in_order: dict[int, Observation | Crash] = {}
        for number in requests:
            answer = answers[number]
            if isinstance(answer, InputError):
                raise answer
            in_order[number] = answer
        return in_order

    def _hear(self, busy: list[EnvironmentWorker]) -> dict[int, Answer]:
        """What these workers say next; crashes where one has ended or is too late."""
        heard: dict[int, Answer] = {}
        timeout = min(worker.deadline for worker in busy) - time.monotonic()
        wait([worker.connection for worker in busy], max(0.0, timeout))
        for worker in busy:
            try:
                heard |= worker.hear()
            except WorkerEndedError as ended:
                owed = worker.owed
                crash = self._lose(worker, str(ended))
                heard |= dict.fromkeys(owed, crash)
                worker.start()
        return heard

    def _lose(self, worker: EnvironmentWorker, reason: str) -> Crash:
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
