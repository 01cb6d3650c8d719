"""The same algorithm from TRL's blocks: three bodies, and heads that are never held over the whole vocabulary.

The log-probability is `trl.kernels.ChunkedLogProbFunction`, in vocabulary tiles as in TRL's fused head; the exact KL is
its `ChunkedDivergenceFunction` as the reverse KL of its distillation trainer. Only states of actions reach the heads.
Seven body passes and eleven head products.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from benchmarks.baseline_steps import Models, Rows, policy_loss, value_loss, values

TILE = 32_768
"""Width of a vocabulary tile, as in TRL's fused head."""
REVERSE_KL = 1.0
"""The `beta` of `ChunkedDivergenceFunction` at which it is KL[student ‖ teacher]."""


def log_prob(
    hidden: Float[Tensor, "N H"], weight: Float[Tensor, "V H"], action: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Returns the log-probability of each action."""
    return ChunkedLogProbFunction.apply(hidden, weight, None, action, 1.0, TILE, None, 1.0, ())[0]  # type: ignore


def exact_kl(
    hidden: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    ref_hidden: Float[Tensor, "N H"],
    ref_weight: Float[Tensor, "V H"],
) -> Float[Tensor, " N"]:
    """Returns KL[π ‖ π_ref] at each state."""
    found = ChunkedDivergenceFunction.apply(hidden, weight, None, ref_hidden, ref_weight, None, REVERSE_KL)
    return found[0]  # type: ignore[no-any-return]


def backward(models: Models, rows: Rows, share: float) -> tuple[float, float]:
    """Adds the gradients of one micro-batch; returns the losses of policy and value."""
    mask = rows.action_mask
    action = rows.action[mask]
    with torch.no_grad():
        ref_hidden, ref_weight = _states(models.reference, rows)
        ref_log_prob = log_prob(ref_hidden, ref_weight, action)
    hidden, weight = _states(models.policy, rows)
    log_pi = log_prob(hidden, weight, action)
    log_ratio = _over_actions(log_pi - ref_log_prob, rows)
    kl = _over_actions(exact_kl(hidden, weight, ref_hidden, ref_weight), rows)
    value = values(models.value, rows)
    of_policy = share * policy_loss(value, log_ratio, kl, rows)
    of_value = share * value_loss(value, log_ratio, rows)
    (of_policy + of_value).backward()
    return float(of_policy.detach()), float(of_value.detach())


def _states(model: Any, rows: Rows) -> tuple[Float[Tensor, "N H"], Float[Tensor, "V H"]]:
    """Returns the last hidden states before each action, and the weight of the head."""
    hidden = model.base_model(**rows.model_inputs).last_hidden_state[:, :-1]
    return hidden[rows.action_mask], model.get_output_embeddings().weight


def _over_actions(numbers: Float[Tensor, " N"], rows: Rows) -> Float[Tensor, "B T-1"]:
    mask = rows.action_mask
    return numbers.new_zeros(mask.shape).masked_scatter(mask, numbers)
