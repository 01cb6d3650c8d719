"""What a task is: problems, prompts, and a grader whose verdicts can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from stepcredit.episodes.episode import Episode, Message, StopReason
from stepcredit.errors import InputError
from stepcredit.grading.grade import Grade
from stepcredit.verdict import Verdict


@dataclass(frozen=True)
class Problem:
    """One problem: what the policy is asked, and the gold answer.

    Attributes:
        prompt_id: equal for all responses to this problem.
        prompt: text, or the chat messages before the first action.
        answer: the gold answer.
        solution: a worked solution that ends in the answer, where the task has one.
        metadata: what results are grouped by (level, type), JSON-serialisable.
    """

    prompt_id: str
    prompt: str | Sequence[Message]
    answer: str
    solution: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The prompt of a task whose prompts are text."""
        assert isinstance(self.prompt, str)
        return self.prompt


@runtime_checkable
class Task(Protocol):
    """Prompts and a grader.

    A task of one's own is a class in a file, named as `--task file.py:Doubling`; what it leaves out is in
    `TaskDefaults`. The whole file:

        from stepcredit import Grade, Problem, TaskDefaults, Verdict

        class Doubling(TaskDefaults):
            name, version = "doubling", "1"

            def problems(self, split, count=None, seed=0):
                numbers = range(1, 501) if split == "train" else range(501, 1001)
                return [Problem(f"{split}-{n}", f"Twice {n} is", str(2 * n)) for n in numbers[:count]]

            def grade(self, problem, response):
                said = response.strip()
                return Grade(Verdict.RIGHT if said == problem.answer else Verdict.WRONG, said)

    Attributes:
        name: in results.
        version: in results; it changes whenever problems or verdicts would.
        step_delimiters: a reasoning step ends after any of these.
        max_new_tokens: length limit of a response.
        stop: strings that end a response.
    """

    name: str
    version: str
    step_delimiters: tuple[str, ...]
    max_new_tokens: int
    stop: tuple[str, ...]

    @property
    def source_versions(self) -> dict[str, str]:
        """Split → version of the data that `problems` has read; empty where a task makes its own."""
        ...

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """The first `count` problems of a split; generated tasks draw them from `seed`."""
        ...

    def grade(self, problem: Problem, response: str) -> Grade:
        """The verdict on a finished response."""
        ...

    def wrong_steps(self, problem: Problem, response: str) -> list[bool] | None:
        """Which steps of a response are wrong, where the task knows; None where it does not."""
        ...


class TaskDefaults:
    """Parts that a task may leave out: lines are steps, only the policy ends a response, no wrong step is known."""

    step_delimiters: tuple[str, ...] = ("\n",)
    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()

    @property
    def source_versions(self) -> dict[str, str]:
        """See `Task.source_versions`."""
        return {}

    def wrong_steps(self, problem: Problem, response: str) -> list[bool] | None:
        """See `Task.wrong_steps`."""
        return None


@runtime_checkable
class SelfDemonstrating(Protocol):
    """An interactive task that makes demonstrations by doing its problems, where others bring worked solutions."""

    max_turns: int

    def demonstrated(self, problems: Sequence[Problem], seed: int, max_turns: int) -> list[Episode]:
        """One right episode of each problem that comes out right within so many turns."""
        ...


def completion_of(prompt: str | Sequence[Message], text: str) -> str | list[Message]:
    """A response in words as an episode wants it: text after text, an assistant's message after chat."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def demonstrated(problem: Problem) -> Episode:
    """A problem's own worked solution as an episode of reward 1.

    Raises:
        InputError: it has none.
    """
    if problem.solution is None:
        raise InputError("has no worked solution", f"problem {problem.prompt_id}")
    return Episode(
        prompt=problem.prompt,
        completion=completion_of(problem.prompt, problem.solution),
        reward=1.0,
        verdict=Verdict.RIGHT,
        prompt_id=problem.prompt_id,
        stop_reason=StopReason.STOP,
        metadata={"answer": problem.answer, "extracted": problem.answer, **problem.metadata},
    )


def graded(task: Task, problem: Problem, text: str) -> Episode:
    """A finished response in words, with its grade, as an episode."""
    grade = task.grade(problem, text)
    return Episode(
        prompt=problem.prompt,
        completion=completion_of(problem.prompt, text),
        reward=grade.reward,
        verdict=grade.verdict,
        prompt_id=problem.prompt_id,
        stop_reason=StopReason.STOP,
        metadata={"answer": problem.answer, "extracted": grade.extracted},
    )
