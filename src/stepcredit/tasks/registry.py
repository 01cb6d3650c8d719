"""The tasks by name, and tasks of one's own from a file."""

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

TASK_NAMES = f"By name: {', '.join([*GENERATED, *LOADED])}."
"""For the help of `--task`."""


def load_task(name: str, data: str | None = None, prompt_style: str | None = None) -> Task:
    """A task by name.

    Args:
        name: the task.
        data: a file or folder to read its problems from; None is the hub.
        prompt_style: how its problems are put; None is the task's default.

    Raises:
        InputError: no such task or style, or one is given to a task that makes its own problems; a file that is not
            there, or whose class is no task.
    """
    if name.partition(":")[0].endswith(".py"):
        return _task_of_file(name, {"data": data, "prompt_style": prompt_style})
    if name in LOADED:
        return LOADED[name](data, prompt_style)
    if name not in GENERATED:
        known = ", ".join(sorted({*GENERATED, *LOADED}))
        raise InputError(f"unknown task {name!r}; choose from {known}, or name one of your own, file.py:Class", "task")
    for field, value in (("data", data), ("prompt_style", prompt_style)):
        if value is not None:
            raise InputError(f"{name} takes none: this task makes its own problems", field)
    return GENERATED[name]()


def _task_of_file(name: str, given: dict[str, str | None]) -> Task:
    """The task of a class in a file, `file.py:Class`, made with the settings that were given.

    The file's folder is put on the module path, where worker processes look for it too.
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
    made = getattr(module, class_name, None)
    if not isinstance(made, type):
        raise InputError(f"{file} has no class {class_name!r}", "task")
    try:
        task = made(**{field: value for field, value in given.items() if value is not None})
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
