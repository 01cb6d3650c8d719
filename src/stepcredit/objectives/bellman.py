"""Building blocks of the soft Bellman equation: suffix sums, segment sums, path residuals.

Notation (CONTRIBUTING.md): ρ_t = log π(a_t|s_t) - log π_ref(a_t|s_t), r_t the reward of
action t, V(s_t) the value of the state *before* action t. There is no discount, and V after the last
action is zero: it is never trained and never read.

A **segment** is a run of actions of one episode that counts as one action. `segment_id` numbers an
episode's segments 0, 1, 2, … along its positions and is -1 at positions that are not actions (prompt,
observation, padding). The token level has one segment per token, the step level one per reasoning step,
the response level one per episode; the functions here are the same for all levels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def suffix_sum(x: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Returns y_s = Σ_{i≥s} x_i, along the last axis.

    Gives the return R_s for rewards, and the suffix Σ_{i≥s} ρ_i for log-ratios.
    """
    return x.flip(-1).cumsum(-1).flip(-1)


def suffix_sum_after(x: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Returns y_s = Σ_{i>s} x_i, along the last axis; the last entry is zero."""
    return torch.nn.functional.pad(suffix_sum(x)[..., 1:], (0, 1))


class Segments(NamedTuple):
    """Per-segment quantities; shapes [B, S], with S the largest number of segments in the batch.

    `log_ratio` and `reward` are sums over the segment's actions, `value` is V at the segment's first
    action, `mask` is true where the segment exists.
    """

    log_ratio: Float[Tensor, "B S"]
    reward: Float[Tensor, "B S"]
    value: Float[Tensor, "B S"]
    mask: Bool[Tensor, "B S"]


def segment_sum(x: Float[Tensor, "B T"], segment_id: Int[Tensor, "B T"], count: int) -> Float[Tensor, "B S"]:
    """Sums `x` over each segment: y_s = Σ_{t: segment_id_t = s} x_t; positions with id -1 are ignored.

    Args:
        x: one number per position.
        segment_id: the segment of each position, -1 outside actions.
        count: S, the number of segments to return; ids must be below it.
    """
    total = x.new_zeros(x.shape[0], count + 1)
    return total.scatter_add(-1, segment_id + 1, x)[:, 1:]


def first_of_segment(segment_id: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Returns a mask of the first action of every segment, also with observations in between.

    A position is the first of its segment if its id exceeds all ids before it; ids never decrease along an episode.
    """
    highest = torch.nn.functional.pad(segment_id.cummax(-1).values[:, :-1], (1, 0), value=-1)
    return segment_id > highest


def gather_segments(
    log_ratio: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    value: Float[Tensor, "B T"],
    segment_id: Int[Tensor, "B T"],
) -> Segments:
    """Aggregates per-token log-ratios, rewards and values over segments (see `Segments`)."""
    count = int(segment_id.max()) + 1
    first = first_of_segment(segment_id)
    zero = torch.zeros_like(value)
    return Segments(
        log_ratio=segment_sum(log_ratio, segment_id, count),
        reward=segment_sum(reward, segment_id, count),
        value=segment_sum(torch.where(first, value, zero), segment_id, count),
        mask=segment_sum(first.to(value.dtype), segment_id, count) > 0,
    )


def masked_mean(x: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """Returns the mean of each row over the entries where `mask` is true; 0 for a row without any."""
    total = torch.where(mask, x, torch.zeros_like(x)).sum(-1)
    return total / mask.sum(-1).clamp(min=1)


def per_episode(x: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"], normalizer: float | None) -> Float[Tensor, " B"]:
    """Returns the sum of each row where `mask` is true, divided by `normalizer` or, if None, by their number."""
    return masked_mean(x, mask) if normalizer is None else torch.where(mask, x, 0.0).sum(-1) / normalizer


def path_residual(segments: Segments, beta: float) -> Float[Tensor, "B S"]:
    """Returns δ_s = V(s_s) - R_s + β Σ_{i≥s} ρ_i, the telescoped soft Bellman residual; zero outside `mask`.

    The one-step residuals V(s_t) - V(s_{t+1}) - r_t + β ρ_t summed from s to the end give δ_s, because
    V after the last action is zero. A policy and a value function for which every residual vanishes are
    optimal for max E Σ_t [r_t - β ρ_t] (path consistency, arXiv 1702.08892; OREO, arXiv 2412.16145).
    """
    residual = segments.value - suffix_sum(segments.reward) + beta * suffix_sum(segments.log_ratio)
    return torch.where(segments.mask, residual, torch.zeros_like(residual))
