"""Multi-turn rollouts: conversations about the problems of an interactive task, in waves of one batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stepcredit.engines.engine import Engine, SteppingEngine
from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError
from stepcredit.progress import Advance, unseen
from stepcredit.rollouts.converse import converse
from stepcredit.rollouts.environment_workers import EnvironmentWorkers
from stepcredit.searching.scorers import Scorer
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.environment import Environments, InteractiveTask
from stepcredit.tasks.task import Problem

Draw = Callable[[Sequence[Problem], int, Advance], list[Episode]]
"""Problems, samples per problem, and who is told of each that is drawn, to graded episodes."""

UNIT_CONVERSATIONS = 128
"""Conversations of one work unit, about: they take longer than single responses."""


@dataclass(frozen=True)
class MultiTurnRollouts:
    """Conversations between a policy and environments.

    Attributes:
        engine: holds policy, tokenizer and batch size: replies drawn at a time.
        environments: of the task.
        max_turns: replies per conversation.
        scorer: chooses among replies.
    """

    engine: SteppingEngine
    environments: Environments
    max_turns: int
    scorer: Scorer | None = None

    def episodes(self, problems: Sequence[Problem], spec: SearchSpec, advance: Advance = unseen) -> list[Episode]:
        """`spec.samples` conversations about each problem, problem by problem."""
        episodes: list[Episode] = []
        samples = [(problem, sample) for problem in problems for sample in range(spec.samples)]
        wave = max(1, self.engine.batch_size // spec.replies)
        for start in range(0, len(samples), wave):
            some = samples[start : start + wave]
            rollouts = converse(some, self.engine, self.environments, spec, self.max_turns, self.scorer)
            episodes += [rollout.episode() for rollout in rollouts]
            advance(len(rollouts))
        return episodes


def stepping(engine: Engine, what: str) -> SteppingEngine:
    """An engine that draws a step or a turn at a time.

    Raises:
        InputError: it draws whole responses alone.
    """
    if not isinstance(engine, SteppingEngine):
        raise InputError(f"{what} draws a step or a turn at a time, which this engine cannot; use transformers",
                         "engine")  # fmt: skip
    return engine


@contextmanager
def multi_turn_rollouts(
    task: InteractiveTask,
    engine: Engine,
    max_turns: int | None = None,
    workers: int | None = None,
    scorer: Scorer | None = None,
) -> Iterator[MultiTurnRollouts]:
    """Rollouts on a task, with worker processes for its environments that end with the context.

    Args:
        task: the task.
        engine: of the policy.
        max_turns: turn limit; None is the task's.
        workers: how many; None is one per processor.
        scorer: chooses among replies.

    Raises:
        InputError: an engine that cannot draw a turn at a time, a setting out of range, or what the task's
            environments need is not installed.
    """
    able = stepping(engine, task.name)
    with EnvironmentWorkers(task.environment, workers or os.cpu_count() or 1) as environments:
        yield MultiTurnRollouts(able, environments, max_turns or task.max_turns, scorer)
