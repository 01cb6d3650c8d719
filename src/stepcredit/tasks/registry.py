"""Registry of tasks by name, and loading of custom tasks from a file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from stepcredit.errors import InputError
from stepcredit.tasks.alfworld.alfworld_task import ALFWorld
from stepcredit.tasks.arithmetic import Arithmetic
from stepcredit.tasks.chain import Chain
from stepcredit.tasks.fetch import Fetch
from stepcredit.tasks.gsm8k import GSM8K
from stepcredit.tasks.gym.gym_task import PREFIX, ReasoningGym
from stepcredit.tasks.math import MATH
from stepcredit.tasks.task import Task

GENERATED: dict[str, Callable[[], Task]] = {t.name: t for t in (Arithmetic, Chain, Fetch)}
"""Tasks that generate their problems."""

LOADED: dict[str, Callable[[str | None, str | None], Task]] = {
    GSM8K.name: GSM8K,
    MATH.name: MATH,
    ALFWorld.name: ALFWorld,
}
"""Tasks that read their problems; constructed with `data` and `prompt_style`."""

TASK_NAMES = f"By name: {', '.join([*GENERATED, *LOADED])}, {PREFIX}NAME."
"""For the help of `--task`."""


def load_task(name: str, data: str | None = None, prompt_style: str | None = None) -> Task:
    """Loads a task by name.

    Args:
        name: the name, `reasoning-gym:NAME`, or `file.py:Class`.
        data: a file or folder with the problems; None is the hub.
        prompt_style: the prompt style; None is the task's default.

    Raises:
        InputError: unknown task or style, `data` or `prompt_style` for a task that generates its problems, or a file
            that does not exist or whose class is not a task.
    """
    if name.partition(":")[0].endswith(".py"):
        return _task_of_file(name, {"data": data, "prompt_style": prompt_style})
    if name.startswith(PREFIX):
        if data is not None:
            raise InputError(f"not supported by {name}, which generates its problems; leave it out", "data")
        return ReasoningGym(name.removeprefix(PREFIX), prompt_style)
    if name in LOADED:
        return LOADED[name](data, prompt_style)
    if name not in GENERATED:
        known = ", ".join([*sorted({*GENERATED, *LOADED}), f"{PREFIX}NAME"])
        raise InputError(f"unknown task {name!r}; choose from {known}, or give a custom one as file.py:Class", "task")
    for field, value in (("data", data), ("prompt_style", prompt_style)):
        if value is not None:
            raise InputError(f"not supported by {name}, which generates its problems; leave it out", field)
    return GENERATED[name]()


def _task_of_file(name: str, settings: dict[str, str | None]) -> Task:
    """Instantiates the task `file.py:Class` with the settings that are not None.

    The file's folder is added to the module path, so that worker processes can import it too.
    """
    file, _, class_name = name.partition(":")
    path = Path(file)
    if not path.is_file() or not class_name:
        raise InputError(f"{name!r}: give an existing file and a class in it, file.py:Class", "task")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.import_module(path.stem)
    if Path(str(module.__file__)).resolve() != path.resolve():
        raise InputError(f"{path.stem} is the name of another module ({module.__file__}); rename the file", "task")
    task_class = getattr(module, class_name, None)
    if not isinstance(task_class, type):
        raise InputError(f"{file} has no class {class_name!r}", "task")
    try:
        task = task_class(**{field: value for field, value in settings.items() if value is not None})
    except TypeError as error:
        raise InputError(f"{name}: {error}", "task") from error
    missing = [part for part in _PARTS if not hasattr(task, part)]
    if missing:
        raise InputError(f"{name} lacks {', '.join(missing)}; stepcredit.TaskDefaults has all but name, version, "
                         "problems and grade, stepcredit.InteractiveTaskDefaults all but name, version, problems and "
                         "environment", "task")  # fmt: skip
    assert isinstance(task, Task)
    return task


_PARTS = (
    "name", "version", "step_delimiters", "max_new_tokens", "stop", "source_versions", "problems", "grade",
    "wrong_steps",
)  # fmt: skip
