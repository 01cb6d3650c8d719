"""Weights that are sharded over processes (FSDP2, DeepSpeed): what cannot work is refused, and models are whole again
where they are saved.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.models.actor_critic import ActorCritic
from stepcredit.training.offline_config import OfflineConfig

_SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether a run shards weights, gradients or the optimizer's state over processes."""
    return accelerator.distributed_type in _SHARDED


def check_sharding(accelerator: Accelerator, args: OfflineConfig) -> None:
    """Checks that a run can be sharded as its config says.

    Raises:
        InputError: it cannot; the message names the setting, and what to choose.
    """
    if not is_sharded(accelerator):
        return
    if getattr(args, "value_updates_per_step", 1) > 1:
        raise InputError("more than one needs whole parameters in each process, not FSDP or DeepSpeed",
                         "value_updates_per_step")  # fmt: skip
    if args.load_best_model_at_end:
        raise InputError("needs whole parameters in each process, not FSDP or DeepSpeed; load the best checkpoint "
                         "afterwards", "load_best_model_at_end")  # fmt: skip
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        if not accelerator.is_fsdp2:
            raise InputError("choose 2 (recipes/accelerate/fsdp2.yaml)", "fsdp_version")
        if args.share_prompts:
            raise InputError("runs each layer twice in a forward pass, which FSDP2 cannot; leave it out",
                             "share_prompts")  # fmt: skip
        if plugin.cpu_ram_efficient_loading:
            raise InputError("leaves all processes but the first without weights, which the reference and the value "
                             "model are copied from; choose false", "fsdp_cpu_ram_efficient_loading")  # fmt: skip
        if "FULL_STATE_DICT" not in str(plugin.state_dict_type):
            raise InputError("choose FULL_STATE_DICT, from which policy/ and value/ are saved",
                             "fsdp_state_dict_type")  # fmt: skip
    elif accelerator.distributed_type == DistributedType.MEGATRON_LM:
        raise InputError("not supported; choose FSDP2 (recipes/accelerate/fsdp2.yaml)", "Megatron-LM")


def without_weights(models: ActorCritic) -> ActorCritic:
    """Returns the trained models with the same modules, and weights of the same shapes on the meta device."""
    empty: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in models.parameters()
    }
    policy, value = (copy.deepcopy(part, empty) for part in (models.policy, models.value))
    return ActorCritic(policy, value, None, models.train_layers)


def with_weights(empty: ActorCritic, weights: Mapping[str, Tensor]) -> ActorCritic:
    """Returns models of `without_weights` with weights by name; tied ones are one again."""
    models = copy.deepcopy(empty)
    tied: dict[int, list[str]] = {}
    for name, parameter in models.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(name)
    models.load_state_dict(weights, assign=True)
    for first, *others in tied.values():
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(models.get_submodule(owner), attribute, models.get_parameter(first))
    return models
