"""Interactive tasks in `collect` and `evaluate`: waves of conversations, environments in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stepcredit.engines.engine import Engine, SamplingParams, SteppingEngine
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.processes import worker_count
from stepcredit.progress import Advance, unseen
from stepcredit.rollouts.acting import ActingParams, Play, act, played_episode
from stepcredit.rollouts.environment_workers import EnvironmentWorkers
from stepcredit.search.scorers import Scorer
from stepcredit.tasks.environment import Environments, InteractiveTask
from stepcredit.tasks.task import Problem

Draw = Callable[[Sequence[Problem], int, Advance], list[Episode]]
"""Problems, how many samples of each, and who is told of each that is drawn, to graded episodes."""

UNIT_CONVERSATIONS = 128
"""Conversations of one work unit, about: they take longer than single responses."""


@dataclass(frozen=True)
class Choice:
    """How a reply is chosen each turn: one of `replies`, by "value" or at "random"."""

    replies: int = 1
    choose: str = "value"


@dataclass(frozen=True)
class Stage:
    """Where conversations are had.

    Attributes:
        engine: holds policy, tokenizer and batch size: replies drawn at a time.
        environments: of the task.
        params: sampling; its length limit is that of a reply.
        max_turns: replies of a conversation.
        scorer: chooses among replies.
    """

    engine: SteppingEngine
    environments: Environments
    params: SamplingParams
    max_turns: int
    scorer: Scorer | None = None

    def episodes(
        self, problems: Sequence[Problem], samples: int, choice: Choice, advance: Advance = unseen
    ) -> list[Episode]:
        """`samples` conversations about each problem, problem by problem, in waves of one batch each."""
        plays = [Play(problem, sample) for problem in problems for sample in range(samples)]
        size = max(1, self.engine.batch_size // choice.replies)
        waves = [plays[k : k + size] for k in range(0, len(plays), size)]
        made: list[Episode] = []
        for wave in waves:
            made += self._wave(wave, choice)
            advance(len(wave))
        return made

    def _wave(self, plays: Sequence[Play], choice: Choice) -> list[Episode]:
        engine = self.engine
        stepper = engine.stepper(self.params, StepRule(()))
        params = ActingParams(
            max_turns=self.max_turns,
            max_new_tokens=self.params.max_new_tokens,
            replies=choice.replies,
            choose=choice.choose,
            seed=self.params.seed,
            max_length=engine.max_length,
        )
        played = act(plays, stepper, engine.tokenizer, self.scorer, self.environments, params, engine.ends)
        return [played_episode(one) for one in played]


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
def stage_of(
    config: Any, task: InteractiveTask, engine: SteppingEngine, params: SamplingParams, scorer: Scorer | None = None
) -> Iterator[Stage]:
    """A stage with the worker processes that a config asks for, ended with it.

    Raises:
        InputError: a setting out of range, or what the task's environments need is not installed.
    """
    with EnvironmentWorkers(task.environment, worker_count(config.workers)) as environments:
        yield Stage(engine, environments, params, turn_limit(config, task), scorer)


def turn_limit(config: Any, task: InteractiveTask) -> int:
    """The config's, or the task's.

    Raises:
        InputError: less than one.
    """
    if config.max_turns is not None and config.max_turns < 1:
        raise InputError(f"{config.max_turns} must be 1 or more", "max_turns")
    return config.max_turns or task.max_turns
