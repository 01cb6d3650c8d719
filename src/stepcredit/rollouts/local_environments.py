"""Conversations in this process, stepped one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

from stepcredit.errors import InputError
from stepcredit.tasks.environment import Crash, Environment, Observation
from stepcredit.tasks.task import Problem

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
        answers: dict[int, Observation | Crash] = {}
        for number, problem in problems.items():
            self.release([number])
            held = self._spare.pop() if self._spare else self._new()
            self._held[number] = held
            answers[number] = held if isinstance(held, Crash) else self._answer(number, held, problem)
        return answers

    def step(self, replies: Mapping[int, str]) -> dict[int, Observation | Crash]:
        """The answers to these replies; the others wait."""
        answers: dict[int, Observation | Crash] = {}
        for number, reply in replies.items():
            held = self._held.get(number, NEVER)
            answers[number] = held if isinstance(held, Crash) else self._answer(number, held, reply)
        return answers

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

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _new(self) -> Environment | Crash:
        try:
            return self._make()
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001  whatever an environment raises: undecided, with the reason
            return Crash(name_and_message(error))

    def _answer(self, number: int, environment: Environment, words: Problem | str) -> Observation | Crash:
        try:
            return environment.reset(words) if isinstance(words, Problem) else environment.step(words)
        except Exception as error:  # noqa: BLE001  whatever an environment raises: undecided, with the reason
            reason = name_and_message(error)
            try:
                environment.close()
            except Exception as second:  # noqa: BLE001  its first exception is the crash; this one is told with it
                reason += f"; and when closed, {name_and_message(second)}"
            crash = Crash(reason)
        self._held[number] = crash
        return crash


def name_and_message(error: BaseException) -> str:
    """An exception as a reason says it."""
    return f"{type(error).__name__}: {error}"
