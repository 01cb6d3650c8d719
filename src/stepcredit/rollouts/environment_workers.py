"""Parallel environments in worker processes, which may crash or hang.

Environments are not trusted: a worker that dies or does not answer in time is replaced, and its conversations are
marked as crashed, which is neither right nor wrong.
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
    """Environments in parallel worker processes, several per process.

    A conversation is assigned to a worker by the hash of its `prompt_id`, so that rollouts of one game share a process
    that has loaded it. A worker that dies or times out is killed and restarted; its conversations answer with a `Crash`
    until they are reset. An exception inside an environment crashes only that conversation. Conversations may be at
    different steps.

    The workers are spawned, so a script that uses them needs the guard `if __name__ == "__main__":`. They end with this
    process. Not thread-safe. A context manager that closes the workers.

    Args:
        make: factory of environments; must be picklable, such as the bound method `environment` of a task.
        workers: number of processes.
        seconds: timeout per answer; the first one includes making the environment.

    Raises:
        InputError: `make` cannot be pickled, or a worker does not start.
    """

    def __init__(self, make: Callable[[], Environment], workers: int, seconds: float = 120.0) -> None:
        if workers < 1:
            raise InputError(f"{workers} worker processes; must be at least 1", "workers")
        if seconds <= 0:
            raise InputError(f"a timeout of {seconds} seconds; must be positive", "seconds")
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
        """Process ids of the running workers."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def reset(self, problems: Mapping[int, Problem]) -> dict[int, Observation | Crash]:
        """Resets these conversations to the given problems; returns the first observations, by index.

        Raises:
            InputError: `make` raised it; no environment can be made until the user fixes the cause.
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
        """Sends replies to these conversations; returns their observations, by index.

        Raises:
            RuntimeError: the workers are closed.
        """
        self._replace_the_dead()
        return self._ask(replies)

    def close(self) -> None:
        """Stop all workers and wait for them; idempotent."""
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
        """Send the requests; returns all answers, in the order of the requests."""
        answers: dict[int, Answer] = {}
        shares: dict[EnvironmentWorker, dict[int, Problem | str]] = {}
        for number, request in requests.items():
            home = self._homes.get(number, NEVER)
            if isinstance(home, Crash):
                answers[number] = home
            else:
                shares.setdefault(home, {})[number] = request
        busy = list(shares)
        try:
            for worker in busy:
                worker.ask(shares[worker])
            while busy:
                answers |= self._hear(busy)
                busy = [worker for worker in busy if worker.owed]
        finally:  # interrupted: a late answer must not be mistaken for the answer to a later request
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
        """Returns the next answers of these workers; crashes for workers that have ended or timed out."""
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
        """Kill a worker and mark its conversations as crashed."""
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
                self._lose(worker, worker.exit_reason())
                worker.start()
