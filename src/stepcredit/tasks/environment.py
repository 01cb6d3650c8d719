"""Interactive tasks: conversations between the policy and an environment.

The policy writes the assistant messages, the environment the user messages. The prompt of an episode consists of the
problem's messages and the environment's first observation. Later observations are never actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stepcredit.errors import InputError
from stepcredit.grading.grade import Grade
from stepcredit.tasks.task import Problem, Task, TaskDefaults


@dataclass(frozen=True)
class Observation:
    """An environment's answer to a reply.

    Attributes:
        text: the next user message.
        reward: reward of the reply that was answered.
        done: whether the episode is over; the text is then unused.
    """

    text: str
    reward: float = 0.0
    done: bool = False


@runtime_checkable
class Environment(Protocol):
    """An environment with one conversation at a time. It is deterministic: equal replies give equal observations."""

    def reset(self, problem: Problem) -> Observation:
        """Starts a problem and returns the first observation."""
        ...

    def step(self, reply: str) -> Observation:
        """Returns the observation after the assistant's whole message."""
        ...

    def close(self) -> None:
        """Releases the environment's resources."""
        ...


@runtime_checkable
class InteractiveTask(Task, Protocol):
    """A task whose problems are conversations.

    A custom task is a class in a file, selected with `--task file.py:Guess`; `InteractiveTaskDefaults` has the optional
    parts. The whole file:

        from stepcredit import InteractiveTaskDefaults, Observation, Problem

        class Guess(InteractiveTaskDefaults):
            name, version, max_turns = "guess", "1", 2

            def problems(self, split, count=None, seed=0):
                letters = "abcdefghijklm" if split == "train" else "nopqrstuvwxyz"
                prompt = [{"role": "system", "content": "Guess the letter in two turns."}]
                return [Problem(f"{split}-{letter}", prompt, letter) for letter in letters[:count]]

            def environment(self):
                return Letter()

        class Letter:
            def reset(self, problem):
                self.letter, self.turns = problem.answer, 0
                return Observation("Which letter?")

            def step(self, reply):
                self.turns += 1
                right = reply.strip() == self.letter
                hint = "earlier" if self.letter < reply.strip() else "later"
                return Observation(hint, reward=float(right), done=right or self.turns == 2)

            def close(self):
                pass

    An episode is right if its rewards sum to 1 or more, wrong if it ends with less, truncated if it reaches a limit.
    Prompts are chat messages that do not end with a user message: the environment adds it. A turn is a step.
    Worker processes create their environments from the pickled task.

    Attributes:
        max_new_tokens: maximum length of a reply.
        max_turns: maximum number of replies per episode.
    """

    max_turns: int

    def environment(self) -> Environment:
        """A new environment."""
        ...


class InteractiveTaskDefaults(TaskDefaults):
    """Defaults for the optional parts of an interactive task."""

    step_delimiters: tuple[str, ...] = ()
    max_turns: int = 8

    def grade(self, problem: Problem, response: str) -> Grade:
        """Not supported: the environment rewards the turns.

        Raises:
            InputError: always.
        """
        raise InputError("is graded by its environment, turn by turn", type(self).__name__)


@dataclass(frozen=True)
class Crash:
    """The failure of an environment; its episode is undecided."""

    reason: str


@runtime_checkable
class Environments(Protocol):
    """Many conversations in parallel, each identified by a number."""

    def reset(self, problems: Mapping[int, Problem]) -> dict[int, Observation | Crash]:
        """Starts these conversations, whatever their state."""
        ...

    def step(self, replies: Mapping[int, str]) -> dict[int, Observation | Crash]:
        """Returns the observations after these replies; all other conversations wait."""
        ...
