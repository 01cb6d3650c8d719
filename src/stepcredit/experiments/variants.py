"""Variants of methods in comparisons: a method with settings such as its level, on outcome or process rewards."""

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
    """Variant of a method in a comparison.

    Attributes:
        method: name in `METHODS`.
        settings: settings that it fixes.
        adapters: the PEFT configs that it trains with, by argument of `OfflineTrainer`, with their task types.
        process_rewards: whether rewards are assigned to steps by their labels.
        difference: difference from the plain method, for the label; empty if none.
        color: color in figures, "#rrggbb"; by default that of the method.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    process_rewards: bool = False
    difference: str = ""
    color: str = ""

    @property
    def look(self) -> dict[str, str]:
        """Label and color, as recorded in `run.json`."""
        method = METHODS[self.method]
        label = f"{method.label} ({self.difference})" if self.difference else method.label
        return {"label": label, "color": self.color or method.color}


BASE = "sft"
"""Method of the initial policy, which is not a variant."""

_LORA = {"peft_config": "CAUSAL_LM", "value_peft_config": "TOKEN_CLS"}
"""Adapters of policy and value model, on one trunk."""

VARIANTS: dict[str, Variant] = {
    **{name: Variant(name) for name in METHODS if name != BASE},
    "dqo-unweighted": Variant("dqo", {"importance_weight": False}, difference="unweighted", color="#e08a7f"),
    "dqo-process": Variant("dqo", process_rewards=True, difference="process rewards", color="#9c6644"),
    "oreo-step": Variant("oreo", {"level": "step"}, difference="step", color="#3fa3d9"),
    "oreo-response": Variant("oreo", {"level": "response"}, difference="response", color="#5b7fa6"),
    "oreo-sampled-kl": Variant("oreo", {"kl_estimator": "sampled"}, difference="sampled KL", color="#1f9aa0"),
    "oreo-shared-prompts": Variant(
        "oreo",
        {"share_prompts": True, "precompute_ref_log_probs": True, "head": "fused"},
        difference="prompts shared",
        color="#1d5a96",
    ),
    "oreo-last-layers": Variant("oreo", {"train_layers": 2}, difference="last 2 layers", color="#7fb069"),
    "oreo-trunk": Variant("oreo", {"shared_trunk": True}, difference="shared trunk", color="#a3c14a"),
    "oreo-lora": Variant("oreo", adapters=_LORA, difference="LoRA", color="#d08c60"),
    "oreo-lora-trunk": Variant(
        "oreo",
        {"shared_trunk": True},
        adapters={"peft_config": _LORA["peft_config"]},
        difference="LoRA, shared trunk",
        color="#c2a83e",
    ),
    "oreo-process": Variant("oreo", process_rewards=True, difference="process rewards", color="#6c6fd1"),
}
BASE_MODEL = {"base": {"label": "base model", "color": "#a9a294"}}
"""Label and color of the pretrained policy."""


def legend(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns label and color of the known methods among `names`, as recorded in `run.json`."""
    looks = {**BASE_MODEL, **methods_legend(METHODS), **{name: variant.look for name, variant in VARIANTS.items()}}
    return {name: looks[name] for name in dict.fromkeys(names) if name in looks}


def variant_of(name: str) -> Variant:
    """Returns the variant of this name.

    Raises:
        InputError: unknown name.
    """
    if name not in VARIANTS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(VARIANTS)}", "methods")
    return VARIANTS[name]


def with_process_rewards(task: Task, episodes: Iterable[Episode]) -> list[Episode]:
    """Returns the episodes with process rewards: -1 at the first wrong step, 0 elsewhere.

    The return is the outcome minus one, so only the position of the reward differs from outcome rewards, and the
    optimal policy is the same. The outcome stays in `Episode.outcome`. Truncated and undecided episodes are unchanged.

    Raises:
        InputError: the task does not label wrong steps.
    """
    return [e if e.reward is None or e.truncated else _labelled(task, e) for e in episodes]


def _labelled(task: Task, episode: Episode) -> Episode:
    if not episode.completion:  # no step: the reward goes to the end token
        return replace(episode, reward=-1.0, outcome=episode.reward)
    problem = Problem(episode.prompt_id, str(episode.prompt), str(episode.metadata.get("answer")))
    wrong = task.wrong_steps(problem, str(episode.completion))
    if wrong is None:
        raise InputError(f"{task.name} does not label wrong steps, so it has no process rewards; choose other methods",
                         "methods")  # fmt: skip
    return with_mark(episode, wrong.index(True) if True in wrong else None, len(wrong))


def with_mark(episode: Episode, first: int | None, steps: int) -> Episode:
    """Returns an episode with process rewards: -1 at its first wrong step of so many, None if no step is wrong."""
    step_rewards = tuple(-1.0 if k == first else 0.0 for k in range(steps))
    return replace(episode, reward=0.0, step_rewards=step_rewards, outcome=episode.reward)
