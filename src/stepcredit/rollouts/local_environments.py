"""Environments in this process, stepped sequentially."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from stepcredit.errors import InputError
from stepcredit.tasks.environment import Crash, Environment, Observation
from stepcredit.tasks.task import Problem

NEVER = Crash("this conversation was never begun")


class LocalEnvironments:
    """Environments in this process, stepped sequentially; made on demand, and again after a crash.

    An exception of an environment becomes a `Crash` with its type and message. A conversation that has crashed, or was
    never reset, answers every step with a `Crash` until it is reset. A context manager that closes all environments.

    Args:
        make: factory of environments.
    """

    def __init__(self, make: Callable[[], Environment]) -> None:
        self._make = make
        self._environments: dict[int, Environment | Crash] = {}
        self._spare: list[Environment] = []

    def reset(self, problems: Mapping[int, Problem]) -> dict[int, Observation | Crash]:
        """Resets these conversations to the given problems; returns the first observations, by index.

        Raises:
            InputError: `make` raised it; no environment can be made until the user fixes the cause.
        """
        answers: dict[int, Observation | Crash] = {}
        for number, problem in problems.items():
            self.release([number])
            environment = self._spare.pop() if self._spare else self._new()
            self._environments[number] = environment
            answers[number] = (
                environment if isinstance(environment, Crash) else self._answer(number, environment, problem)
            )
        return answers

    def step(self, replies: Mapping[int, str]) -> dict[int, Observation | Crash]:
        """Sends replies to these conversations; returns their observations, by index."""
        answers: dict[int, Observation | Crash] = {}
        for number, reply in replies.items():
            environment = self._environments.get(number, NEVER)
            answers[number] = (
                environment if isinstance(environment, Crash) else self._answer(number, environment, reply)
            )
        return answers

    def release(self, numbers: Iterable[int]) -> None:
        """Release the environments of finished conversations for reuse."""
        for number in numbers:
            environment = self._environments.pop(number, NEVER)
            if not isinstance(environment, Crash):
                self._spare.append(environment)

    def close(self) -> None:
        """Close all environments; a reset makes new ones."""
        self.release(list(self._environments))
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
        except Exception as error:  # noqa: BLE001  an environment may raise anything: the episode is undecided
            return Crash(name_and_message(error))

    def _answer(self, number: int, environment: Environment, request: Problem | str) -> Observation | Crash:
        try:
            answer = environment.reset(request) if isinstance(request, Problem) else environment.step(request)
            _check(answer)
            return answer
        except Exception as error:  # noqa: BLE001  an environment may raise anything: the episode is undecided
            reason = name_and_message(error)
            try:
                environment.close()
            except Exception as second:  # noqa: BLE001  reported together with the first exception
                reason += f"; and when closed, {name_and_message(second)}"
            crash = Crash(reason)
        self._environments[number] = crash
        return crash


def _check(answer: object) -> None:
    """Checks what an environment answers, which may be anybody's code.

    Raises:
        TypeError: it is no observation.
    """
    if not isinstance(answer, Observation):
        raise TypeError(f"an environment answers with an Observation, not with {type(answer).__name__}")
    kinds: dict[str, tuple[type, ...]] = {
        "text": (str,),
        "reward": (int, float, np.integer, np.floating),
        "done": (bool, np.bool_),
    }
    for name, kind in kinds.items():
        if not isinstance(value := getattr(answer, name), kind):
            raise TypeError(f"{name} of an Observation is {type(value).__name__}")


def name_and_message(error: BaseException) -> str:
    """Formats an exception as its type and message."""
    return f"{type(error).__name__}: {error}"
