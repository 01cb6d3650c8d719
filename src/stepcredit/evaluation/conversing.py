"""Evaluation of interactive tasks: greedy, sampled, and the best of K replies a turn, by value or at random.

Best of K draws K replies each turn and says the one with the highest V, read before the reply's end token; `random`
says any of them, at the same cost of drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepcredit.engines.engine import SamplingParams, SteppingEngine
from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError
from stepcredit.rollouts.multi_turn import UNIT_CONVERSATIONS, Choice, Stage, stage_of
from stepcredit.rollouts.work_units import WorkFolder, work_units
from stepcredit.search.scorers import Scorer
from stepcredit.tasks.environment import InteractiveTask
from stepcredit.tasks.task import Problem

SEARCHES = ("greedy", "sample", "best-of", "random", "all")
"""What an interactive task can be evaluated by."""


@dataclass(frozen=True)
class Way:
    """One way to have conversations.

    Attributes:
        name: as in the results' `search`.
        width: samples of each problem, or replies drawn a turn.
        samples: conversations a problem.
        choice: of replies.
        params: sampling.
    """

    name: str
    width: int
    samples: int
    choice: Choice
    params: SamplingParams


def ways(config: Any, params: SamplingParams) -> list[Way]:
    """The ways that a config asks for; "all" is greedy, one sample, and K replies by value and at random for every K
    from 2 to its width.

    Raises:
        InputError: a search that conversations do not have, or one without its scorer.
    """
    if config.search not in SEARCHES:
        raise InputError(f"{config.search!r} is not for an interactive task: {', '.join(SEARCHES)}", "search")
    has_scorer = config.value_model is not None or config.reward_model is not None
    greedy = Way("greedy", 1, 1, Choice(), replace(params, temperature=0.0, top_p=1.0, top_k=0))
    sample = Way("sample", config.num_generations, config.num_generations, Choice(), params)

    def best_of(name: str, replies: int) -> Way:
        return Way(name, replies, 1, Choice(replies, "value" if name == "best-of" else "random"), params)

    if config.search == "all":
        names = ["best-of", "random"] if has_scorer else ["random"]
        return [greedy, sample, *(best_of(name, k) for name in names for k in range(2, config.width + 1))]
    if config.search in ("greedy", "sample"):
        return [greedy if config.search == "greedy" else sample]
    return [best_of(config.search, config.width)]


def conversed(
    config: Any,
    task: InteractiveTask,
    problems: Sequence[Problem],
    engine: SteppingEngine,
    scorer: Scorer | None,
    params: SamplingParams,
    responses: Path,
    asked: dict[str, Any],
) -> Iterator[tuple[Way, list[Episode]]]:
    """(a way, its episodes) for each that the config asks for; those of an earlier run are read back."""
    wanted = ways(config, params)
    with stage_of(config, task, engine, params, scorer) as stage:
        for way in wanted:
            folder = responses.with_name(f"{responses.name}-{way.name}{way.width}")
            yield way, _worked(folder, problems, way, replace(stage, params=way.params), asked)


def _worked(folder: Path, problems: Sequence[Problem], way: Way, stage: Stage, asked: dict[str, Any]) -> list[Episode]:
    units = work_units(problems, way.samples, UNIT_CONVERSATIONS)
    work = WorkFolder(folder, {**asked, "strategy": f"{way.name}{way.width}"}, units)
    made = work.finish(
        lambda unit, advance: stage.episodes(unit, way.samples, way.choice, advance),
        f"{way.name} {way.width}",
        way.samples,
        "conversations",
    )
    return list(made)
