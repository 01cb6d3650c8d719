"""What an interactive task is: a conversation in which an environment answers.

The policy writes as the assistant, the environment as the user. The prompt of an episode is the problem's own messages
and the environment's first words; what the environment says later are observations, never actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stepcredit.tasks.task import Problem, Task


@dataclass(frozen=True)
class Observation:
    """What an environment answers.

    Attributes:
        text: the user's next message, as the policy reads it.
        reward: of the reply that led here.
        done: whether the episode is over; then nobody reads the text.
    """

    text: str
    reward: float = 0.0
    done: bool = False


@runtime_checkable
class Environment(Protocol):
    """One conversation at a time. Equal problems and replies lead to equal observations."""

    def reset(self, problem: Problem) -> Observation:
        """Begin a problem; its first words."""
        ...

    def step(self, reply: str) -> Observation:
        """The answer to the assistant's whole message."""
        ...

    def close(self) -> None:
        """Let go of whatever it holds."""
        ...


@runtime_checkable
class InteractiveTask(Task, Protocol):
    """A task whose problems are conversations.

    A reply has at most `max_new_tokens` tokens and an episode at most `max_turns` of them; one that meets either limit
    is truncated. An episode is right if its rewards add up to 1 or more, wrong if it ends with less. The prompts of
    `problems` are chat messages, and their last one is not the user's: that is the environment's. `step_delimiters`
    is empty: a turn is a step. The task can be pickled: worker processes make their environments from it.
    """

    max_turns: int

    def environment(self) -> Environment:
        """A new environment."""
        ...


@dataclass(frozen=True)
class Crash:
    """An environment that could not answer: its episode is undecided."""

    reason: str


@runtime_checkable
class Environments(Protocol):
    """Many conversations beside each other, told apart by number."""

    def reset(self, problems: Mapping[int, Problem]) -> dict[int, Observation | Crash]:
        """Begin these, wherever they were before."""
        ...

    def step(self, replies: Mapping[int, str]) -> dict[int, Observation | Crash]:
        """The answers to these replies; the others wait."""
        ...
