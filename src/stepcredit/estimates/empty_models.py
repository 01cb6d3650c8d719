"""The models of a training run without their weights: built as for training, with shapes and no data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from stepcredit.models.actor_critic import ActorCritic
from stepcredit.models.loading import load_config
from stepcredit.models.value_bins import set_value_bins
from stepcredit.training.build_models import build_actor_critic
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.train import TrainConfig, adapter_configs


def build_empty(config: TrainConfig, args: OfflineConfig) -> ActorCritic:
    """Builds policy, value model and reference on the meta device, as `build_actor_critic` does for training.

    Raises:
        InputError: a config is missing or damaged, or a setting does not fit the model.
    """
    policy = load_config(config.model, trust_remote_code=args.trust_remote_code)
    value, reference = (
        None if name is None else load_config(name, trust_remote_code=args.trust_remote_code)
        for name in (config.value_model, config.ref_model)
    )
    with torch.device("meta"):
        return models_of(config, args, policy, value, reference)


def models_of(
    config: TrainConfig, args: OfflineConfig, policy: Any, value: Any = None, reference: Any = None
) -> ActorCritic:
    """Builds models with random weights, on the device of the context, from configs in place of names."""
    init: dict[str, Any] = {"dtype": torch.float32, **(args.model_init_kwargs or {})}  # type: ignore[dict-item]
    init = {name: init[name] for name in ("dtype", "attn_implementation") if name in init}
    if isinstance(init["dtype"], str):
        init["dtype"] = getattr(torch, init["dtype"])
    init["trust_remote_code"] = args.trust_remote_code
    made = AutoModelForCausalLM.from_config(policy, **init)
    if value is not None:
        set_value_bins(value, getattr(args, "bins", None))
        value.token_classification_bias = False
        value = AutoModelForTokenClassification.from_config(value, dtype=torch.float32)
    if reference is not None:
        reference = AutoModelForCausalLM.from_config(reference, **init)
    return build_actor_critic(made, value, reference, args, None, **adapter_configs(config))


def pretend(models: ActorCritic) -> None:
    """Replaces the weights on the meta device by fake tensors on the CPU, in place.

    Operations on them compute shapes and types alone, and choose their kernels as on a CPU; masks and token ids are
    real.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, tuple[Tensor, Tensor]] = {}  # with the original, whose id is taken while it lives
    for part in (*models.parts().values(), models.reference):
        for module in () if part is None else part.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None and not isinstance(tensor, FakeTensor):
                        if id(tensor) not in made:
                            made[id(tensor)] = (_fake(mode, tensor), tensor)
                        table[name] = made[id(tensor)][0]


def _fake(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    fake: Tensor = mode.fake_tensor_converter.from_meta_and_device(mode, tensor.detach(), torch.device("cpu"))
    return nn.Parameter(fake, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
