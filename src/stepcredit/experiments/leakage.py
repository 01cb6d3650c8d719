"""Problems that are both learned from and tested on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Protocol

from stepcredit.tasks.environment import InteractiveTask
from stepcredit.tasks.task import Task


class Posed(Protocol):
    """What has a prompt: a problem, or an episode."""

    @property
    def prompt_id(self) -> str:
        """Name of the prompt."""
        ...

    @property
    def prompt(self) -> object:
        """Text, or chat messages."""
        ...


class Learned:
    """Prompts that a method learns from, or is chosen by.

    A problem is known by its text, as files may number theirs alike or anew; white space does not count. Games of an
    interactive task may begin with the same words, so these are known by their names.

    Args:
        task: the task that the prompts are of.
    """

    def __init__(self, task: Task) -> None:
        self._by_name = isinstance(task, InteractiveTask)
        self._known: set[str] = set()

    def add(self, prompts: Iterable[Posed]) -> None:
        """Adds prompts."""
        self._known.update(map(self._key, prompts))

    def among(self, problems: Iterable[Posed]) -> int:
        """Returns how many of these problems are among the prompts."""
        return sum(self._key(problem) in self._known for problem in problems)

    def _key(self, posed: Posed) -> str:
        if self._by_name:
            return posed.prompt_id
        prompt = posed.prompt
        text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=dict)
        return " ".join(text.split())
