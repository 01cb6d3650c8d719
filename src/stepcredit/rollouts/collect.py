"""Collection of offline data: sample responses to a task's prompts, grade them, store the exact token ids."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from stepcredit.engines.engine import Engine
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.flags import flag
from stepcredit.progress import Advance
from stepcredit.rollouts.balanced import balanced_episodes
from stepcredit.rollouts.multi_turn import multi_turn_rollouts
from stepcredit.rollouts.single_turn import draw_and_grade, sampling
from stepcredit.rollouts.task_settings import HOW_ASKED, SamplingSettings, TaskSettings
from stepcredit.rollouts.work_units import Draw, Unfinished, Unit, WorkFolder, samples_of, settings_of, work_units
from stepcredit.searching.spec import SearchSpec
from stepcredit.settings import Limits
from stepcredit.tasks.environment import InteractiveTask
from stepcredit.tasks.task import Problem, SelfDemonstrating, Task, demonstrated

SOLUTIONS = "solutions"
"""Name that stands for the task's worked solutions instead of a policy."""
_UNBOUND = ("batch_size", "dry_run", *HOW_ASKED)
"""Settings that do not affect the episodes."""


@dataclass(kw_only=True)
class CollectConfig(SamplingSettings, TaskSettings):
    """Sample and grade responses. Run the command again to resume."""

    model: Annotated[str, Limits(not_empty=True)] = field(
        metadata=flag(
            "model",
            'Or "solutions": the worked solutions of gsm8k, math and reasoning-gym:gsm_symbolic, or careful '
            "demonstrators of alfworld.",
        )
    )
    output_dir: Annotated[str, Limits(not_empty=True)] = field(
        metadata=flag("output_dir", "An interrupted run resumes in it.")
    )
    split: str = field(default="train", metadata=flag("split"))
    num_generations: Annotated[int, Limits(at_least=1)] = field(default=8, metadata=flag("num_generations"))
    balanced: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata=flag("balanced", default="keep all")
    )
    dry_run: bool = field(default=False, metadata=flag("dry_run"))


def collect(config: CollectConfig, engine: Engine | None = None) -> dict[str, Any]:
    """Collects episodes into `output_dir`; returns counts, and the rate of the response tokens sampled now, if any (see
    `CollectConfig`).

    Args:
        config: the settings.
        engine: engine to use instead of loading one for the policy.

    Raises:
        InputError: unknown task or split, the policy cannot be loaded, or the folder has other contents or is in use.
    """
    task = config.load_task()
    problems = list(task.problems(config.split, config.limit, config.seed))
    if config.model == SOLUTIONS and engine is None:
        return _collect_solutions(config, task, problems)
    units = work_units(problems, config.num_generations)
    if config.dry_run:
        return {"prompts": len(problems), "responses": len(problems) * config.num_generations, "units": len(units)}
    work = WorkFolder(Path(config.output_dir), settings_of(config, task, *_UNBOUND), units)
    rate: dict[str, int] = {}
    with work.held("stepcredit collect") as finished:
        if (done := len(finished)) < len(units):
            engine = engine or config.load_engine(config.model, config.batch_size, config.trust_remote_code)
            with drawing(config, task, engine) as draw:
                tokens, start = 0, time.monotonic()

                def made(unit: Unit, advance: Advance, there: Unfinished) -> list[Episode]:
                    nonlocal tokens
                    before = len(there.episodes)
                    episodes = _made(config, unit, draw, advance, there)
                    new = there.episodes[before:]
                    tokens += sum(int(e.tokens.action_mask.sum()) for e in new if e.tokens is not None)
                    return episodes

                work.finish(made, f"collecting {config.task}", config.num_generations)
                rate = {"response tokens/s": round(tokens / (time.monotonic() - start))}
    return {"prompts": len(problems), "responses": len(load_episodes(work.folder)), "units_resumed": done, **rate}


def _made(config: CollectConfig, unit: Unit, draw: Draw, advance: Advance, there: Unfinished) -> list[Episode]:
    """Returns the episodes of a work unit: all samples, or balanced ones."""
    if config.balanced is None:
        return there.complete(samples_of(unit, config.num_generations), draw, advance)
    episodes = balanced_episodes(
        unit, config.balanced, config.num_generations, lambda samples: there.complete(samples, draw, advance)
    )
    advance(len(unit) * config.num_generations - len(there.episodes))
    return episodes


@contextmanager
def drawing(config: Any, task: Task, engine: Engine) -> Iterator[Draw]:
    """Yields a function that samples episodes of a task with the sampling settings of a config.

    Raises:
        InputError: the task is interactive and the engine cannot generate one turn at a time.
    """
    params = sampling(config, task)
    if not isinstance(task, InteractiveTask):
        yield partial(draw_and_grade, task, engine, params)
        return
    with multi_turn_rollouts(task, engine, config.max_turns, config.workers) as rollouts:
        yield partial(rollouts.episodes, SearchSpec("sample", 1, params))


def _collect_solutions(config: CollectConfig, task: Task, problems: Sequence[Problem]) -> dict[str, Any]:
    """Write the worked solutions of a task as episodes, in one work unit."""
    if config.balanced is not None:
        raise InputError("worked solutions are not sampled; leave it out", "balanced")
    if config.dry_run:
        return {"prompts": len(problems), "responses": len(problems)}

    def solved(unit: Unit, advance: Advance, there: Unfinished) -> Iterator[Episode]:
        for problem in unit:
            if isinstance(task, SelfDemonstrating):
                yield from task.demonstrated([problem], config.seed, config.max_turns or task.max_turns)
            else:
                yield demonstrated(problem)
            advance(1)

    work = WorkFolder(Path(config.output_dir), settings_of(config, task, *_UNBOUND), [problems])
    with work.held("stepcredit collect"):
        episodes = work.finish(solved, f"solutions of {task.name}", counted="problems")
    return {"prompts": len(problems), "responses": len(episodes)}
