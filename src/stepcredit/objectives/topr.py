"""TOPR: off-policy REINFORCE with tapered importance weights, without reference or value (arXiv 2503.14286)."""

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
    """Returns the loss of each episode: REINFORCE with rewards 1 and -1, importance-weighted on wrong responses.

        L = -Σ_t log π(a_t|s_t)                                                            if it is right
        L = sg[ clip( exp( Σ_t log π(a_t|s_t) - log μ(a_t|s_t) ), 0, 1 ) ] Σ_t log π(a_t|s_t)    if it is wrong

    Right responses have full weight, however unlikely they are. On wrong responses the gradient tapers to zero as π
    falls below μ, where plain REINFORCE would not stop. The loss is a surrogate: its gradient is meaningful, its value
    is not and can be negative.

    Args:
        log_prob: log π(a_t|s_t), in nats.
        behavior_log_prob: log μ(a_t|s_t) under the behaviour policy, constant; only enters the weight of wrong
            responses. The log-ratio is clipped before the exponential, which therefore does not overflow.
        action_mask: true where the position is an action.
        right: whether the response is right (reward 1) or wrong (reward -1).

    The loss sums over tokens, since the ratio is that of whole responses.

    Source: TOPR, section 3.
    """
    zero = torch.zeros_like(log_prob)
    total = torch.where(action_mask, log_prob, zero).sum(-1)
    log_weight = torch.where(action_mask, log_prob.detach() - behavior_log_prob.detach(), zero).sum(-1)
    taper = log_weight.clamp(max=0).exp()
    return torch.where(right, -total, taper * total)
