"""Training metrics of the value function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stepcredit.objectives.bellman import gather_segments, masked_mean, suffix_sum
from stepcredit.objectives.sums import Sums, explained_of, mean_of, spread_of


def value_metrics(
    *,
    value: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    segment_id: Int[Tensor, "B T"],
    beta: float,
    bins: Sequence[float] | None = None,
) -> dict[str, Sums]:
    """Returns `values/mean`, `values/initial`, `values/explained_variance`, `advantages/mean` and `advantages/std`.

    The target of V is the soft return R_s - β Σ_{i≥s} ρ_i. Explained variance is 1 - Var(target - V) / Var(target)
    over all segments, NaN if the targets do not vary. The advantage of segment s is V(s_{s+1}) - V(s_s) + r_s, with
    V = 0 after the last segment. `values/mean` is the mean over episodes of the mean over segments. No gradient flows.

    With the bins of a categorical V, `values/outside_range` is the share of targets beyond the first or the last bin.
    """
    at = gather_segments(log_ratio.detach(), reward, value.detach(), segment_id)
    target = suffix_sum(at.reward) - beta * suffix_sum(at.log_ratio)
    following = torch.nn.functional.pad(torch.where(at.mask, at.value, 0.0)[:, 1:], (0, 1))
    advantage = (following - at.value + at.reward)[at.mask]
    return {
        "values/mean": mean_of(masked_mean(at.value, at.mask)),
        "values/initial": mean_of(at.value[:, 0]),
        "values/explained_variance": explained_of((target - at.value)[at.mask], target[at.mask]),
        "advantages/mean": mean_of(advantage),
        "advantages/std": spread_of(advantage),
        **({} if bins is None else {"values/outside_range": mean_of(_outside(target[at.mask], bins))}),
    }


def _outside(target: Float[Tensor, " N"], bins: Sequence[float]) -> Bool[Tensor, " N"]:
    return (target < bins[0]) | (target > bins[-1])
