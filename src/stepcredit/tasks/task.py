"""What a task is: problems, prompts, and a grader whose verdicts can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.verdict import Verdict


@dataclass(frozen=True)
class Problem:
    """One problem: what the policy is asked, and the gold answer."""

    prompt_id: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Grade:
    """A grader's word on one response.

    Attributes:
        verdict: right, wrong or undecided.
        extracted: the answer it found, or None.
        reason: why, in a few words.
    """

    verdict: Verdict
    extracted: str | None = None
    reason: str = ""

    @property
    def reward(self) -> float | None:
        """1 for right, 0 for wrong, None where undecided."""
        return None if self.verdict is Verdict.UNDECIDED else float(self.verdict is Verdict.RIGHT)


@runtime_checkable
class Task(Protocol):
    """Prompts and a grader.

    `version` changes whenever problems or verdicts would; results carry it. `step_delimiters` are where a
    reasoning step of this task ends.
    """

    name: str
    version: str
    step_delimiters: tuple[str, ...]
    max_new_tokens: int

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """The first `count` problems of a split; generated tasks draw them from `seed`."""
        ...

    def grade(self, problem: Problem, response: str) -> Grade:
        """The verdict on a finished response."""
        ...

    def wrong_steps(self, problem: Problem, response: str) -> list[bool] | None:
        """Which steps of a response are wrong, where the task knows; None where it does not."""
        ...


def graded(task: Task, problem: Problem, text: str) -> Episode:
    """A finished response in words, with its grade, as an episode."""
    grade = task.grade(problem, text)
    return Episode(
        prompt=problem.prompt,
        completion=text,
        reward=grade.reward,
        verdict=grade.verdict,
        prompt_id=problem.prompt_id,
        stop_reason=StopReason.STOP,
        metadata={"answer": problem.answer, "extracted": grade.extracted},
    )
