"""The task protocol: problems, prompts and a grader."""

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
    """One problem: the prompt and the gold answer.

    Attributes:
        prompt_id: equal for all responses to this problem.
        prompt: text, or the chat messages before the first action.
        answer: the gold answer.
        solution: a worked solution that ends in the answer, or None.
        metadata: values by which results are grouped (level, type), JSON-serialisable.
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

    A custom task is a class in a file, selected with `--task file.py:Doubling`; `TaskDefaults` has the optional parts.
    The whole file:

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
        name: name of the task in results.
        version: version of the task in results; it changes whenever problems or verdicts change.
        step_delimiters: strings after which a reasoning step ends.
        max_new_tokens: maximum length of a response.
        stop: strings that end a response.
    """

    name: str
    version: str
    step_delimiters: tuple[str, ...]
    max_new_tokens: int
    stop: tuple[str, ...]

    @property
    def source_versions(self) -> dict[str, str]:
        """Split → version of the data that `problems` has read; empty for generated problems."""
        ...

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """Returns the first `count` problems of a split; tasks that generate problems sample them with `seed`."""
        ...

    def grade(self, problem: Problem, response: str) -> Grade:
        """Grades a finished response."""
        ...

    def wrong_steps(self, problem: Problem, response: str) -> list[bool] | None:
        """Which steps of a response are wrong; None if the task does not know."""
        ...


class TaskDefaults:
    """Defaults for the optional parts of a task: lines are steps, no stop strings, wrong steps unknown."""

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
    """An interactive task that generates demonstrations by playing its problems, instead of using worked solutions."""

    max_turns: int

    def demonstrated(self, problems: Sequence[Problem], seed: int, max_turns: int) -> list[Episode]:
        """Returns one right episode per problem; problems that are not solved within `max_turns` are left out."""
        ...


def completion_of(prompt: str | Sequence[Message], text: str) -> str | list[Message]:
    """Returns a response as the completion of an episode: text after a text prompt, a message after chat messages."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def demonstrated(problem: Problem) -> Episode:
    """Returns the worked solution of a problem as an episode with reward 1.

    Raises:
        InputError: the problem has no worked solution.
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
    """Grades a finished response and returns it as an episode."""
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
