"""Parameter groups of policy and value function, and the warm-up of the value function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stepcredit.models.actor_critic import POLICY, VALUE
from stepcredit.training.offline_config import OfflineConfig


def trainable(parts: Mapping[str, nn.Module]) -> dict[str, list[nn.Parameter]]:
    """Returns the trainable parameters of each model that has some."""
    parameters = {name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()}
    return {name: some for name, some in parameters.items() if some}


def parameter_groups(parts: Mapping[str, nn.Module], args: OfflineConfig) -> list[dict[str, Any]]:
    """Returns one parameter group per model, each with its own learning rate."""
    rate = getattr(args, "value_learning_rate", None)
    rates = {POLICY: args.learning_rate, VALUE: args.learning_rate if rate is None else rate}
    return [
        {"params": parameters, "lr": rates[name], "weight_decay": args.weight_decay, "name": name}
        for name, parameters in trainable(parts).items()
    ]


def delay(scheduler: Any, name: str, steps: int) -> None:
    """Sets the learning rate of the parameter group `name` to 0 for the first steps, in place."""
    if not steps or not hasattr(scheduler, "lr_lambdas"):
        return
    groups = scheduler.optimizer.param_groups
    scheduler.lr_lambdas = [
        (lambda step, schedule=schedule: 0.0 if step < steps else schedule(step))
        if group.get("name") == name
        else schedule
        for group, schedule in zip(groups, scheduler.lr_lambdas, strict=True)
    ]
    for group, base, schedule in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * schedule(scheduler.last_epoch)
