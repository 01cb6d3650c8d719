"""TOPR: off-policy REINFORCE that tapers off on wrong responses; no reference, no value (arXiv 2503.14286)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def topr_loss(
    *,
    log_prob: Float[Tensor, "B T"],
    behavior_log_prob: Float[Tensor, "B T"],
    action_mask: Bool[Tensor, "B T"],
    right: Bool[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """The loss of each episode: REINFORCE with the rewards 1 and -1, importance-weighted on wrong responses alone.

        L = -Σ_t log π(a_t|s_t)                                                            where it is right
        L = sg[ clip( exp( Σ_t log π(a_t|s_t) - log μ(a_t|s_t) ), 0, 1 ) ] Σ_t log π(a_t|s_t)    where it is wrong

    A right response is imitated, however unlikely it is. A wrong one is pushed down only as far as the policy
    would still write it: as π falls below μ its gradient tapers to zero, where plain REINFORCE would push for
    ever. The loss is a surrogate, right in its gradient and not in its number, which can be below zero.

    Args:
        log_prob: log π(a_t|s_t), in nats.
        behavior_log_prob: log μ(a_t|s_t) of the policy that sampled, constant; enters through the weight of
            wrong responses alone. The ratio is clipped as a logarithm, so that no π far above μ overflows.
        action_mask: true where the position is an action.
        right: whether the response is right (reward 1) or wrong (reward -1).

    Sums and not means over tokens, as the ratio is one of whole responses.

    Source: TOPR, section 3.
    """
    zero = torch.zeros_like(log_prob)
    total = torch.where(action_mask, log_prob, zero).sum(-1)
    log_weight = torch.where(action_mask, log_prob.detach() - behavior_log_prob.detach(), zero).sum(-1)
    taper = log_weight.clamp(max=0).exp()
    return torch.where(right, -total, taper * total)
