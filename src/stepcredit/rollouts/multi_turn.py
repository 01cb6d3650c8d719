"""Multi-turn rollouts: conversations on the problems of an interactive task, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stepcredit.engines.engine import Engine, SteppingEngine
from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError
from stepcredit.progress import Advance, unseen
from stepcredit.rollouts.converse import converse
from stepcredit.rollouts.environment_workers import EnvironmentWorkers
from stepcredit.rollouts.work_units import Keep, Sample
from stepcredit.searching.scorers import Scorer
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.environment import Environments, InteractiveTask


@dataclass(frozen=True)
class MultiTurnRollouts:
    """Multi-turn rollouts of a policy in environments.

    Attributes:
        engine: engine of the policy; its batch size is the number of replies sampled at a time.
        environments: environments of the task.
        max_turns: maximum number of replies per conversation.
        scorer: scorer that chooses among replies.
    """

    engine: SteppingEngine
    environments: Environments
    max_turns: int
    scorer: Scorer | None = None

    def episodes(
        self, spec: SearchSpec, samples: Sequence[Sample], advance: Advance = unseen, keep: Keep | None = None
    ) -> list[Episode]:
        """Runs one conversation per sample, in order; calls `keep` after each batch."""
        episodes: list[Episode] = []
        batch_size = max(1, self.engine.batch_size // spec.replies)
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            rollouts = converse(batch, self.engine, self.environments, spec, self.max_turns, self.scorer)
            episodes += (made := [rollout.episode() for rollout in rollouts])
            if keep is not None:
                keep(made)
            advance(len(rollouts), tokens=sum(rollout.tokens_generated for rollout in rollouts))
        return episodes


def stepping(engine: Engine, what: str) -> SteppingEngine:
    """Returns the engine if it can generate one step or turn at a time.

    Raises:
        InputError: the engine generates only whole responses.
    """
    if not isinstance(engine, SteppingEngine):
        raise InputError(
            f"{what} needs one step or turn at a time, which this engine cannot generate; use transformers, or servers "
            "that give token ids (vLLM, SGLang, llama.cpp)",
            "engine",
        )
    return engine


@contextmanager
def multi_turn_rollouts(
    task: InteractiveTask,
    engine: Engine,
    max_turns: int | None = None,
    workers: int | None = None,
    scorer: Scorer | None = None,
) -> Iterator[MultiTurnRollouts]:
    """Context manager of rollouts on a task, with worker processes for its environments.

    Args:
        task: the task.
        engine: engine of the policy.
        max_turns: turn limit; by default that of the task.
        workers: number of worker processes; by default one per processor.
        scorer: scorer that chooses among replies.

    Raises:
        InputError: the engine cannot generate one turn at a time, a setting is out of range, or a dependency of the
            environments is not installed.
    """
    stepping_engine = stepping(engine, task.name)
    with EnvironmentWorkers(task.environment, workers or os.cpu_count() or 1) as environments:
        yield MultiTurnRollouts(stepping_engine, environments, max_turns or task.max_turns, scorer)
