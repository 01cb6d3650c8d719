"""The tasks by name."""

from __future__ import annotations

from collections.abc import Callable

from stepcredit.errors import InputError
from stepcredit.tasks.arithmetic import Arithmetic
from stepcredit.tasks.chain import Chain
from stepcredit.tasks.task import Task

TASKS: dict[str, Callable[[], Task]] = {Arithmetic.name: Arithmetic, Chain.name: Chain}


def load_task(name: str) -> Task:
    """A task by name.

    Raises:
        InputError: no such task.
    """
    if name not in TASKS:
        raise InputError(f"no task {name!r}; there is {', '.join(sorted(TASKS))}", "task")
    return TASKS[name]()
