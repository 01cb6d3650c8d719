"""Offline reinforcement learning for the multi-step reasoning of language models.

Scored episodes in; a better policy and a value function out. The names below are the public face; they
are imported when first used, so that `import stepcredit` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stepcredit.version import __version__ as __version__

if TYPE_CHECKING:
    from stepcredit.api import collect as collect
    from stepcredit.api import evaluate as evaluate
    from stepcredit.api import grade as grade
    from stepcredit.api import search as search
    from stepcredit.episodes.episode import Episode as Episode
    from stepcredit.episodes.episode import StopReason as StopReason
    from stepcredit.episodes.store import append_episodes as append_episodes
    from stepcredit.episodes.store import load_episodes as load_episodes
    from stepcredit.errors import InputError as InputError
    from stepcredit.grading.grade import Grade as Grade
    from stepcredit.tasks.environment import InteractiveTask as InteractiveTask
    from stepcredit.tasks.environment import InteractiveTaskDefaults as InteractiveTaskDefaults
    from stepcredit.tasks.environment import Observation as Observation
    from stepcredit.tasks.task import Problem as Problem
    from stepcredit.tasks.task import Task as Task
    from stepcredit.tasks.task import TaskDefaults as TaskDefaults
    from stepcredit.training.configs import *  # noqa: F403 - the config of every method
    from stepcredit.training.trainer import OfflineTrainer as OfflineTrainer
    from stepcredit.verdict import Verdict as Verdict

_HOME = {
    "Episode": "episodes.episode",
    "Grade": "grading.grade",
    "InputError": "errors",
    "InteractiveTask": "tasks.environment",
    "InteractiveTaskDefaults": "tasks.environment",
    "Observation": "tasks.environment",
    "OfflineTrainer": "training.trainer",
    "Problem": "tasks.task",
    "StopReason": "episodes.episode",
    "Task": "tasks.task",
    "TaskDefaults": "tasks.task",
    "Verdict": "verdict",
    "append_episodes": "episodes.store",
    "collect": "api",
    "evaluate": "api",
    "grade": "api",
    "load_episodes": "episodes.store",
    "search": "api",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"stepcredit.{_HOME[name]}"), name)
    if name == "__all__":
        return sorted([*_HOME, *_configs(), "__version__"])
    if name.endswith("Config") and name in _configs():
        return _configs()[name]
    raise AttributeError(f"module 'stepcredit' has no attribute {name!r}")


def _configs() -> dict[str, Any]:
    """The config of every method of the table, and the one they share, by name."""
    from stepcredit.training.methods import METHODS
    from stepcredit.training.offline_config import OfflineConfig

    configs: list[Any] = [OfflineConfig, *(method.config for method in METHODS.values())]
    return {config.__name__: config for config in configs}


def __dir__() -> list[str]:
    names: list[str] = __getattr__("__all__")
    return names
