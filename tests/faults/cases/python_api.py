"""The same mistakes in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from faults.case import Case


def trainer(config: str = "OREOConfig", **given: Any) -> Callable[[], Any]:
    """Making a trainer of the materials with these settings of its config, or other arguments."""

    def call() -> Any:
        import stepcredit
        from stepcredit import OfflineTrainer, load_episodes

        arguments = {
            name: given.pop(name) for name in ("model", "train_dataset", "value_model", "ref_model") if name in given
        }
        settings = {
            "output_dir": "out",
            "max_steps": 1,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            **given,
        }
        args = getattr(stepcredit, config)(**settings)
        made = OfflineTrainer(**{"model": "policy", "train_dataset": load_episodes("episodes"), **arguments}, args=args)
        return made.train()

    return call


def episode(**given: Any) -> Callable[[], Any]:
    """Making an episode."""

    def call() -> Any:
        from stepcredit import Episode

        return Episode(**{"prompt": "1+1=", "completion": "2", "reward": 1.0, "prompt_id": "p", **given})

    return call


def load(path: str) -> Callable[[], Any]:
    """Loading episodes."""

    def call() -> Any:
        from stepcredit import load_episodes

        return load_episodes(path)

    return call


CALLS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "beta nan": (trainer(beta=float("nan")), ("beta",)),
    "beta of text": (trainer(beta="small"), ("beta",)),
    "learning_rate nan": (trainer(learning_rate=float("nan")), ("learning_rate",)),
    "learning_rate of text": (trainer(learning_rate="fast"), ("learning_rate",)),
    "level": (trainer(level="word"), ("level",)),
    "seed -1": (trainer(seed=-1), ("seed",)),
    "batch size 0": (trainer(per_device_train_batch_size=0), ("per_device_train_batch_size",)),
    "batch size -3": (trainer(per_device_train_batch_size=-3), ("per_device_train_batch_size",)),
    "max_steps 0": (trainer(max_steps=0), ("max_steps",)),
    "num_train_epochs -1": (trainer(max_steps=-1, num_train_epochs=-1), ("num_train_epochs",)),
    "warmup_steps -1": (trainer(warmup_steps=-1), ("warmup_steps",)),
    "report_to bogus": (trainer(report_to="bogus"), ("report_to",)),
    "an unknown setting": (trainer(betta=1.0), ("betta", "beta")),
    "no model": (trainer(model="nowhere"), ("nowhere",)),
    "a model of a number": (trainer(model=3), ("model",)),
    "a dataset of text": (trainer(train_dataset="nowhere"), ("nowhere",)),
    "a dataset of numbers": (trainer(train_dataset=[1, 2]), ()),
    "rows without a reward": (trainer(train_dataset=[{"prompt": "a", "completion": "b"}]), ("reward",)),
    "an empty dataset": (trainer(train_dataset=[]), ()),
    "a value model that is a policy": (trainer(value_model="policy"), ("policy",)),
    "a reference of another kind": (trainer(ref_model="value"), ("value",)),
    "an episode's reward NaN": (episode(reward=float("nan")), ("reward",)),
    "an episode's reward of text": (episode(reward="good"), ("reward",)),
    "an episode without a prompt": (episode(prompt=None), ("prompt",)),
    "an episode's completion of a number": (episode(completion=3), ("completion",)),
    "an episode's sample -1": (episode(sample=-1), ("sample",)),
    "an episode's step rewards of text": (episode(step_rewards=("a",)), ("step_rewards",)),
    "episodes of nowhere": (load("nowhere"), ("nowhere",)),
    "episodes of a file": (load("logs.jsonl"), ("logs.jsonl",)),
    "episodes of NUL": (load("a\x00b"), ()),
}


def cases() -> Iterator[Case]:
    """Calls of the public names."""
    for name, (call, says) in CALLS.items():
        yield Case("Python", name, call=call, says=says)
