"""DQO: a soft Q-function Q = V + β log π/π_ref, fitted by λ-returns (arXiv 2410.09302)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stepcredit.objectives.bellman import Segments, gather_segments, masked_mean
from stepcredit.objectives.value_losses import ValueLoss, squared


def lambda_return(segments: Segments, beta: float, lam: float) -> Float[Tensor, "B S"]:
    """Returns G^λ_s = (r_s - β ρ_s) + (1-λ) V(s_{s+1}) + λ G^λ_{s+1}, with V and G zero after the last segment.

    Equals (1-λ) Σ_n λ^{n-1} G⁽ⁿ⁾_s + λ^{S-s-1} G_s over the n-step returns G⁽ⁿ⁾_s = Σ_{l<n} (r_{s+l} - β ρ_{s+l})
    + V(s_{s+n}), n from 1 to S-s-1, and the full return G_s. λ = 1 gives the full return, λ = 0 the one-step return.

    Args:
        segments: per-segment sums; entries outside `mask` are zero and give zero.
        beta: β, the weight of the KL to the reference.
        lam: λ in [0, 1].

    Source: DQO, section 3.3.
    """
    reward = segments.reward - beta * segments.log_ratio
    following = torch.nn.functional.pad(segments.value[:, 1:], (0, 1))
    returns = torch.zeros_like(reward)
    later = torch.zeros_like(reward[:, 0])
    for s in reversed(range(reward.shape[1])):
        later = reward[:, s] + (1 - lam) * following[:, s] + lam * later
        returns[:, s] = later
    return returns


def trajectory_weight(
    log_prob: Float[Tensor, "B T"], behavior_log_prob: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """Returns w = sg[ exp(min(Σ_t log π(a_t|s_t) - log μ(a_t|s_t), 1)) ], an episode's truncated importance weight.

    Without the stop-gradient, the loss could be reduced by driving w to zero. μ is the behaviour policy, or the
    reference if that is unknown. Source: DQO, section 3.4.
    """
    log_weight = torch.where(action_mask, log_prob - behavior_log_prob, 0.0).sum(-1)
    return log_weight.clamp(max=1.0).exp().detach()


def dqo_losses(
    *,
    value: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    segment_id: Int[Tensor, "B T"],
    weight: Float[Tensor, " B"],
    beta: float,
    lam: float,
    loss: ValueLoss = squared,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Returns (policy loss, value loss) of each episode.

        L_π = w/S Σ_s ( β ρ_s - [ r_s + sg G^λ_{s+1} - sg V(s_s) ] )²
        L_V = w/S Σ_s ( V(s_s) - sg G^λ_s )²

    With λ = 1 and w = 1 this is token-level OREO without its KL term.

    Args: as in `oreo_policy_loss`; `weight` from `trajectory_weight`, constant; `lam` is λ in [0, 1]; `loss` is how V
    is fitted to its targets.

    Source: DQO, equations of section 3.2 and 3.3.
    """
    at = gather_segments(log_ratio, reward, value, segment_id)
    fixed = Segments(at.log_ratio.detach(), at.reward, at.value.detach(), at.mask)
    returns = lambda_return(fixed, beta, lam)
    following = torch.nn.functional.pad(returns[:, 1:], (0, 1))
    policy_residual = beta * at.log_ratio - (at.reward + following - fixed.value)
    value_residual = at.value - returns
    weight = weight.detach()
    return (
        weight * masked_mean(policy_residual.square(), at.mask),
        weight * masked_mean(loss(value_residual, at.value, segment_id), at.mask),
    )
