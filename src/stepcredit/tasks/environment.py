"""Interactive tasks: conversations in which an environment answers.

The policy writes as the assistant, the environment as the user. The prompt of an episode is the problem's own messages
and the environment's first words; what the environment says later are observations, never actions.
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

    A task of one's own is a class in a file, named as `--task file.py:Guess`; what it leaves out is in
    `InteractiveTaskDefaults`. The whole file:

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

    An episode is right if its rewards add up to 1 or more, wrong if it ends with less, truncated if it meets a limit.
    The prompts are chat messages whose last one is not the user's: that is the environment's. A turn is a step.
    Worker processes make their environments from the task, which is pickled.

    Attributes:
        max_new_tokens: length limit of a reply.
        max_turns: replies of an episode.
    """

    max_turns: int

    def environment(self) -> Environment:
        """A new environment."""
        ...


class InteractiveTaskDefaults(TaskDefaults):
    """Parts that an interactive task may leave out."""

    step_delimiters: tuple[str, ...] = ()
    max_turns: int = 8

    def grade(self, problem: Problem, response: str) -> Grade:
        """Not to be asked: the environment rewards the turns.

        Raises:
            InputError: always.
        """
        raise InputError("is graded by its environment, turn by turn", type(self).__name__)


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
