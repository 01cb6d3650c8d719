"""OREO: a policy and a value function that satisfy the soft Bellman equation together (arXiv 2412.16145).

An episode is a sequence of segments s: tokens, reasoning steps, or the whole response (sections 3.2 and 3.4 of the
paper). The code below refers to these equations by number:

    (1)  δ_s = V(s_s) - R_s + β Σ_{i≥s} ρ_i,  zero for the optimal pair: the soft Bellman equation from s to the end
    (2)  L_V = 1/S Σ_s ( V(s_s) - R_s + sg[ β Σ_{i≥s} ρ_i ] )²
    (3)  L_π = 1/S Σ_s ( sg[V(s_s)] - R_s + β ρ_s + sg[ β Σ_{i>s} ρ_i ] )²,  ρ_s = Σ_{t in s} ρ_t
    (4)  + α 1/T Σ_t KL[π(·|s_t) ‖ π_ref(·|s_t)],  over the episode's T action tokens

Differences from the paper, and options:

- KL estimator: the KL in (4) is exact, over the whole vocabulary; `sampled_kl` estimates it from the action taken.
- Normaliser: (2) and (3) are divided by S, the episode's number of segments; `normalizer` replaces it by a constant.
- End token: at step and turn level the token that ends a response or a turn is a segment of its own
  (`episodes.alignment`), so that V of the state before it, which scores a finished response, is trained.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stepcredit.objectives.bellman import (
    gather_segments,
    masked_mean,
    path_residual,
    per_episode,
    suffix_sum,
    suffix_sum_after,
)
from stepcredit.objectives.value_losses import ValueLoss, squared


def oreo_value_loss(
    *,
    value: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    segment_id: Int[Tensor, "B T"],
    beta: float,
    normalizer: float | None = None,
    loss: ValueLoss = squared,
) -> Float[Tensor, " B"]:
    """Returns the value loss (2) of each episode.

    Args:
        value: V(s_t), read at the position before action t.
        log_ratio: ρ_t; enters through a stop-gradient, so no gradient reaches the policy.
        reward: r_t, on actions; zero elsewhere.
        segment_id: the segments of the value function, -1 outside actions. V is read, and trained, only
            at the first action of a segment.
        beta: β, the weight of the KL to the reference, > 0, in units of reward.
        normalizer: the divisor of the sum over an episode's segments; None: S, the number of segments, as in the
            paper. With S, segments of long episodes have less weight, so V(s) is not the mean return if returns
            depend on length; with a constant it is (as in Dr. GRPO, arXiv 2503.20783).
        loss: how V is fitted to its targets R_s - β Σ_{i≥s} ρ_i, by squares in the paper.
    """
    at = gather_segments(log_ratio.detach(), reward, value, segment_id)
    residual = path_residual(at, beta)  # (1)
    return per_episode(loss(residual, at.value, segment_id), at.mask, normalizer)  # (2)


def oreo_policy_loss(
    *,
    value: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    segment_id: Int[Tensor, "B T"],
    beta: float,
    normalizer: float | None = None,
) -> Float[Tensor, " B"]:
    """Returns the policy loss (3) of each episode, without its KL term (`kl_penalty`).

    Only the segment's own log-ratio has a gradient; later log-ratios and the value are constants, with the value from
    before the update of this batch.

    Args: as in `oreo_value_loss`; `segment_id` has the segments of the policy.
    """
    at = gather_segments(log_ratio, reward, value.detach(), segment_id)
    future = suffix_sum_after(at.log_ratio).detach()
    residual = at.value - suffix_sum(at.reward) + beta * at.log_ratio + beta * future  # (1), its gradient cut to ρ_s
    return per_episode(residual.square(), at.mask, normalizer)  # (3)


def kl_penalty(kl: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Returns the KL term (4) of each episode without its weight α: the mean over action tokens, at every level.

    Args:
        kl: KL[π ‖ π_ref] at each state, in nats.
        action_mask: true where the position is an action.
    """
    return masked_mean(kl, action_mask)  # (4)


def sampled_kl(log_ratio: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Estimates KL[π ‖ π_ref] at each state from the action taken there: w ρ - (w - 1) with w = e^ρ, in nats.

    The estimate is for actions sampled from the *reference*, as in data from before training: KL[π ‖ π_ref] =
    E_ref[w log w], and w - 1, whose mean is zero, is subtracted. It is unbiased in value and in gradient, which is
    w ρ ∇log π, never negative, and zero with zero gradient at π = π_ref. It differs from the estimate for actions
    sampled from π (e^-ρ - 1 + ρ), and its variance grows with w.

    It is finite for all finite ρ: where e^{1.1 ρ} would overflow, from ρ = 80.6 on in single precision, estimate and
    slope keep their values at that point. For ρ → -∞ it is 1, with slope zero.

    Args:
        log_ratio: ρ_t of the action taken; zero outside actions, where the estimate is zero too.

    Replaces the exact KL in `kl_penalty` where the full softmax is too expensive.

    Source: estimators of this form: J. Schulman, "Approximating KL divergence", 2020.
    """
    limit = math.log(torch.finfo(log_ratio.dtype).max) / 1.1
    above = log_ratio - log_ratio.detach() + limit  # `limit` in value, with the slope of ρ
    bounded = torch.where(log_ratio > limit, above, log_ratio.clamp(min=-limit))
    return bounded.exp() * bounded - bounded.expm1()
