"""The methods that a comparison names: a method of the table, at a level, on outcome or process rewards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError
from stepcredit.tasks.task import Problem, Task
from stepcredit.training.methods import METHODS
from stepcredit.training.methods import legend as methods_legend


@dataclass(frozen=True)
class Variant:
    """A method of a comparison, as the table has it or with a difference.

    Attributes:
        method: its name in the table.
        given: what it sets.
        process_rewards: whether steps are rewarded by their labels.
        difference: in words, for its label; empty where there is none.
        color: in figures, "#rrggbb"; empty: that of the method.
    """

    method: str
    given: Mapping[str, Any] = field(default_factory=dict)
    process_rewards: bool = False
    difference: str = ""
    color: str = ""

    @property
    def look(self) -> dict[str, str]:
        """Its label and colour, as `run.json` records them."""
        method = METHODS[self.method]
        label = f"{method.label} ({self.difference})" if self.difference else method.label
        return {"label": label, "color": self.color or method.color}


BASE = "sft"
"""What a comparison starts from, and therefore does not compare with itself."""

VARIANTS: dict[str, Variant] = {
    **{name: Variant(name) for name in METHODS if name != BASE},
    "dqo-unweighted": Variant("dqo", {"importance_weight": False}, difference="unweighted", color="#e08a7f"),
    "dqo-process": Variant("dqo", process_rewards=True, difference="process rewards", color="#9c6644"),
    "oreo-step": Variant("oreo", {"level": "step"}, difference="step", color="#3fa3d9"),
    "oreo-response": Variant("oreo", {"level": "response"}, difference="response", color="#5b7fa6"),
    "oreo-sampled-kl": Variant("oreo", {"kl_estimator": "sampled"}, difference="sampled KL", color="#1f9aa0"),
    "oreo-process": Variant("oreo", process_rewards=True, difference="process rewards", color="#6c6fd1"),
}
BASE_MODEL = {"base": {"label": "base model", "color": "#a9a294"}}
"""The pretrained policy, where it is measured beside the methods."""


def legend(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Label and colour of the methods among some names, as `run.json` records them for the report."""
    known = {**BASE_MODEL, **methods_legend(METHODS), **{name: variant.look for name, variant in VARIANTS.items()}}
    return {name: known[name] for name in dict.fromkeys(names) if name in known}


def variant_of(name: str) -> Variant:
    """A variant by name.

    Raises:
        InputError: no such variant.
    """
    if name not in VARIANTS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(VARIANTS)}", "methods")
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
