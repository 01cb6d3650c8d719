"""KTO: unpaired desirable and undesirable responses with a KL baseline (arXiv 2402.01306)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.objectives.sums import Sums, count, difference_of, mean_of, mean_where, total


def mismatched_sums(log_ratio_sum: Float[Tensor, " B"]) -> Float[Tensor, " 2"]:
    """Returns B and Σ_b Σ_t ρ_t(x_b, y'_b) over mismatched responses; the sums of micro-batches add up.

    Args:
        log_ratio_sum: Σ_t ρ_t of each prompt with a response to another prompt, in nats.
    """
    return torch.stack([count(log_ratio_sum), total(log_ratio_sum)])


def kl_baseline(sums: Float[Tensor, " 2"]) -> Float[Tensor, ""]:
    """Returns z = sg[ max( 1/B Σ_b Σ_t ρ_t(x_b, y'_b), 0 ) ], one number for a whole optimizer step.

    Estimates KL[π ‖ π_ref] from responses in the data: y'_b answers *another* prompt than x_b, so no response is its
    own baseline. The estimate is biased, since y' was not sampled from π, and clamped at zero. Because of the clamp,
    the mean over micro-batches would exceed the estimate for the whole batch.

    Args:
        sums: B and Σ_b Σ_t ρ_t over all mismatched responses of the step, from `mismatched_sums`.

    Source: KTO, section 4 (z_0 and its estimate).
    """
    number, nats = sums.detach()
    z: Tensor = (nats / number).clamp(min=0)
    return z


def kto_loss(
    *,
    log_ratio_sum: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    baseline: Float[Tensor, ""],
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Float[Tensor, " B"]:
    """Returns the KTO loss of each response.

        L = λ_D (1 - σ( β (Σ_t ρ_t - z) ))    if it is desirable
        L = λ_U (1 - σ( β (z - Σ_t ρ_t) ))    if it is not

    The gain or loss relative to the baseline z saturates on both sides: a response whose log-ratio is far from z has
    almost no gradient. At π = π_ref, where z = 0, the gradient is that of REINFORCE with the rewards β λ_D / 4 and
    -β λ_U / 4.

    Args:
        log_ratio_sum: Σ_t ρ_t over the action tokens of each response, in nats.
        desirable: whether the response is desirable.
        baseline: z, from `kl_baseline`, constant.
        beta: sets how fast gains saturate, > 0, in units of reward.
        desirable_weight, undesirable_weight: λ_D and λ_U; the paper keeps λ_D n_D / (λ_U n_U) in [1, 4/3] for
            n_D desirable and n_U undesirable responses.

    Source: KTO, equations 7 and 8.
    """
    margin = beta * (log_ratio_sum - baseline.detach())
    right, wrong = desirable_weight * torch.sigmoid(-margin), undesirable_weight * torch.sigmoid(margin)
    return torch.where(desirable, right, wrong)  # λ - v, (7) and (8)


def kto_metrics(
    *,
    log_ratio_sum: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    baseline: Float[Tensor, ""],
    beta: float,
) -> dict[str, Sums]:
    """Returns `kl`, `rewards/chosen`, `rewards/rejected` and `rewards/margins`, as in TRL.

    These are the baseline z, the mean implied rewards β Σ_t ρ_t of desirable (chosen) and undesirable (rejected)
    responses, NaN without such responses, and their difference. No gradient flows.

    Args: as in `kto_loss`.
    """
    reward = beta * log_ratio_sum.detach()
    return {
        "kl": mean_of(baseline.expand(len(reward))),
        "rewards/chosen": mean_where(reward, desirable),
        "rewards/rejected": mean_where(reward, ~desirable),
        "rewards/margins": difference_of(reward, desirable),
    }
