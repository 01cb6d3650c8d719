"""Offline reinforcement learning for the multi-step reasoning of language models.

Scored episodes in; a better policy and a value function out. The names below are the public face; they
are imported when first used, so that `import stepcredit` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stepcredit.version import __version__

if TYPE_CHECKING:
    from stepcredit.episodes.episode import Episode as Episode
    from stepcredit.episodes.episode import StopReason as StopReason
    from stepcredit.episodes.store import append_episodes as append_episodes
    from stepcredit.episodes.store import load_episodes as load_episodes
    from stepcredit.errors import InputError as InputError
    from stepcredit.grading.grade import Grade as Grade
    from stepcredit.tasks.task import Problem as Problem
    from stepcredit.tasks.task import Task as Task
    from stepcredit.tasks.task import TaskDefaults as TaskDefaults
    from stepcredit.training.configs import DPOConfig as DPOConfig
    from stepcredit.training.configs import DQOConfig as DQOConfig
    from stepcredit.training.configs import DROConfig as DROConfig
    from stepcredit.training.configs import KTOConfig as KTOConfig
    from stepcredit.training.configs import OfflineConfig as OfflineConfig
    from stepcredit.training.configs import OREOConfig as OREOConfig
    from stepcredit.training.configs import RFTConfig as RFTConfig
    from stepcredit.training.configs import SFTConfig as SFTConfig
    from stepcredit.training.configs import TOPRConfig as TOPRConfig
    from stepcredit.training.trainer import OfflineTrainer as OfflineTrainer
    from stepcredit.verdict import Verdict as Verdict

_HOME = {
    "DPOConfig": "training.configs",
    "DQOConfig": "training.configs",
    "DROConfig": "training.configs",
    "Episode": "episodes.episode",
    "Grade": "grading.grade",
    "InputError": "errors",
    "KTOConfig": "training.configs",
    "OREOConfig": "training.configs",
    "OfflineConfig": "training.configs",
    "OfflineTrainer": "training.trainer",
    "Problem": "tasks.task",
    "RFTConfig": "training.configs",
    "SFTConfig": "training.configs",
    "StopReason": "episodes.episode",
    "TOPRConfig": "training.configs",
    "Task": "tasks.task",
    "TaskDefaults": "tasks.task",
    "Verdict": "verdict",
    "append_episodes": "episodes.store",
    "load_episodes": "episodes.store",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"stepcredit.{_HOME[name]}"), name)
    raise AttributeError(f"module 'stepcredit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
