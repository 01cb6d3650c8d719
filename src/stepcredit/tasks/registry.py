"""The tasks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepcredit.errors import InputError
from stepcredit.tasks.alfworld.task import ALFWorld
from stepcredit.tasks.arithmetic import Arithmetic
from stepcredit.tasks.chain import Chain
from stepcredit.tasks.fetch import Fetch
from stepcredit.tasks.gsm8k import GSM8K
from stepcredit.tasks.math import MATH
from stepcredit.tasks.task import Task

GENERATED: dict[str, Callable[[], Task]] = {t.name: t for t in (Arithmetic, Chain, Fetch)}
"""Tasks that make their own problems."""

LOADED: dict[str, Callable[[str | None, str | None], Task]] = {
    GSM8K.name: GSM8K,
    MATH.name: MATH,
    ALFWorld.name: ALFWorld,
}
"""Tasks that read their problems: called with `data` and `prompt_style`."""


def step_delimiters_of(name: str) -> tuple[str, ...] | None:
    """Where the steps of a task end, by its name; None for a task that is not known here."""
    task: Any = {**GENERATED, **LOADED}.get(name)
    return None if task is None else tuple(task.step_delimiters)


def load_task(name: str, data: str | None = None, prompt_style: str | None = None) -> Task:
    """A task by name.

    Args:
        name: the task.
        data: a file or folder to read its problems from; None is the hub.
        prompt_style: how its problems are put; None is the task's default.

    Raises:
        InputError: no such task or style, or one is given to a task that makes its own problems.
    """
    if name in LOADED:
        return LOADED[name](data, prompt_style)
    if name not in GENERATED:
        raise InputError(f"no task {name!r}; there is {', '.join(sorted({*GENERATED, *LOADED}))}", "task")
    for field, value in (("data", data), ("prompt_style", prompt_style)):
        if value is not None:
            raise InputError(f"{name} takes none: this task makes its own problems", field)
    return GENERATED[name]()
