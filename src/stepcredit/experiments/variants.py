"""The methods that a comparison names: a method of the table, at a level, on outcome or process rewards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError
from stepcredit.tasks.task import Problem, Task


@dataclass(frozen=True)
class Variant:
    """One line of a comparison: the method, what it sets, and whether steps are rewarded by their labels."""

    method: str
    given: Mapping[str, Any] = field(default_factory=dict)
    process_rewards: bool = False


VARIANTS: dict[str, Variant] = {
    "rft": Variant("rft"),
    "dpo": Variant("dpo"),
    "kto": Variant("kto"),
    "topr": Variant("topr"),
    "dro": Variant("dro"),
    "dqo": Variant("dqo"),
    "dqo-unweighted": Variant("dqo", {"importance_weight": False}),
    "dqo-process": Variant("dqo", process_rewards=True),
    "oreo": Variant("oreo"),
    "oreo-step": Variant("oreo", {"level": "step"}),
    "oreo-response": Variant("oreo", {"level": "response"}),
    "oreo-sampled-kl": Variant("oreo", {"kl_estimator": "sampled"}),
    "oreo-process": Variant("oreo", process_rewards=True),
}


def variant_of(name: str) -> Variant:
    """A variant by name.

    Raises:
        InputError: no such variant.
    """
    if name not in VARIANTS:
        raise InputError(f"no method {name!r} to compare; there is {', '.join(VARIANTS)}", "methods")
    return VARIANTS[name]


def with_process_rewards(task: Task, episodes: Iterable[Episode]) -> list[Episode]:
    """The same episodes with the outcome told at the step that decided it: -1 at the first wrong step, else 0.

    An episode's total is its outcome less one, so that only the place of the reward differs from outcome rewards,
    and the optimal policy is the same. Right and wrong still go by the outcome (`Episode.outcome`). Truncated and
    undecided episodes stay as they are.

    Raises:
        InputError: the task does not know which steps are wrong.
    """
    return [e if e.reward is None or e.truncated else _labelled(task, e) for e in episodes]


def _labelled(task: Task, episode: Episode) -> Episode:
    if not episode.completion:  # no step to put it on: the end token bears it
        return replace(episode, reward=-1.0, outcome=episode.reward)
    problem = Problem(episode.prompt_id, str(episode.prompt), str(episode.metadata.get("answer")))
    wrong = task.wrong_steps(problem, str(episode.completion))
    if wrong is None:
        raise InputError(f"{task.name} does not know which steps are wrong: no process rewards", "methods")
    first = wrong.index(True) if True in wrong else len(wrong)
    step_rewards = tuple(-1.0 if k == first else 0.0 for k in range(len(wrong)))
    return replace(episode, reward=0.0, step_rewards=step_rewards, outcome=episode.reward)
