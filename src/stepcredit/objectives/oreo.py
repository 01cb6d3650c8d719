"""OREO: a policy and a value function that satisfy the soft Bellman equation together (arXiv 2412.16145).

At every level an episode is its segments s: tokens, reasoning steps, or the whole response (sections 3.2 and 3.4 of the
paper). The numbers are those of the lines below:

    (1)  δ_s = V(s_s) - R_s + β Σ_{i≥s} ρ_i,  zero for the optimal pair: the soft Bellman equation from s to the end
    (2)  L_V = 1/S Σ_s ( V(s_s) - R_s + sg[ β Σ_{i≥s} ρ_i ] )²
    (3)  L_π = 1/S Σ_s ( sg[V(s_s)] - R_s + β ρ_s + sg[ β Σ_{i>s} ρ_i ] )²,  ρ_s = Σ_{t in s} ρ_t
    (4)  + α 1/T Σ_t KL[π(·|s_t) ‖ π_ref(·|s_t)],  over the episode's T action tokens

Where this is not, or need not be, the paper:

- KL estimator: the KL in (4) is exact, over the whole vocabulary; `sampled_kl` estimates it from the action taken.
- Normaliser: (2) and (3) are divided by S, the episode's own number of segments; `normalizer` puts a constant there.
- End token: at step and turn level the token that ends a response or a turn is a segment of its own
  (`episodes.alignment`), so that V of the state before it, where a finished response is scored, is trained.
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


def oreo_value_loss(
    *,
    value: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    segment_id: Int[Tensor, "B T"],
    beta: float,
    normalizer: float | None = None,
) -> Float[Tensor, " B"]:
    """The value loss (2) of each episode.

    Args:
        value: V(s_t), read at the position before action t.
        log_ratio: ρ_t; enters through a stop-gradient, so no gradient reaches the policy.
        reward: r_t, on actions; zero elsewhere.
        segment_id: the segments of the value function, -1 outside actions. V is read, and trained, only
            at the first action of a segment.
        beta: strength of the pull towards the reference, > 0, in units of reward.
        normalizer: what the sum over an episode's segments is divided by; None: S, their own number, as in the
            paper. With S a segment of a long episode weighs less, so that V(s) is not the mean of the returns
            where those of long episodes differ; with a constant it is (as Dr. GRPO has it, arXiv 2503.20783).
    """
    at = gather_segments(log_ratio.detach(), reward, value, segment_id)
    residual = path_residual(at, beta)  # (1)
    return per_episode(residual.square(), at.mask, normalizer)  # (2)


def oreo_policy_loss(
    *,
    value: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    segment_id: Int[Tensor, "B T"],
    beta: float,
    normalizer: float | None = None,
) -> Float[Tensor, " B"]:
    """The policy loss (3) of each episode, without its KL term (`kl_penalty`).

    Only the segment's own log-ratio carries a gradient; the future and the value are constants, and the
    value is the one from before this batch's update.

    Args: as in `oreo_value_loss`; here `segment_id` are the policy's segments.
    """
    at = gather_segments(log_ratio, reward, value.detach(), segment_id)
    future = suffix_sum_after(at.log_ratio).detach()
    residual = at.value - suffix_sum(at.reward) + beta * at.log_ratio + beta * future  # (1), its gradient cut to ρ_s
    return per_episode(residual.square(), at.mask, normalizer)  # (3)


def kl_penalty(kl: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """The KL term (4) of each episode, without its weight α: the mean over its action tokens, at every level.

    Args:
        kl: the exact KL over the whole vocabulary at each state of the data, in nats.
        action_mask: true where the position is an action.
    """
    return masked_mean(kl, action_mask)  # (4)


def sampled_kl(log_ratio: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """w ρ - (w - 1) with w = e^ρ: KL[π ‖ π_ref] at a state, estimated from the one action that was taken there.

    For actions that the *reference* sampled, as in data from before training: KL[π ‖ π_ref] = E_ref[w log w],
    and w - 1, whose mean is zero, is taken off. The estimate is unbiased in value and in gradient, which is
    w ρ ∇log π; it is never negative, and zero with zero gradient where π = π_ref. It is not the estimate
    for actions that π sampled (e^-ρ - 1 + ρ), and its variance grows with w.

    It is finite wherever ρ is: where e^{1.1 ρ} would leave the range of numbers, from ρ = 80.6 on in single precision,
    the estimate and its slope stay what they are there. For ρ → -∞ it is 1, its slope zero.

    Args:
        log_ratio: ρ_t of the action that was taken, zero outside actions, where the estimate is zero too.

    Returns nats; stands in for the exact KL in `kl_penalty` where the full softmax is too dear.

    Source: estimators of this form: J. Schulman, "Approximating KL divergence", 2020.
    """
    limit = math.log(torch.finfo(log_ratio.dtype).max) / 1.1
    above = log_ratio - log_ratio.detach() + limit  # `limit` in value, with the slope of ρ
    bounded = torch.where(log_ratio > limit, above, log_ratio.clamp(min=-limit))
    return bounded.exp() * bounded - bounded.expm1()
