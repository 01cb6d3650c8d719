"""OAPL: regression of the policy onto the optimal advantage of responses, without a value model (arXiv 2602.19362)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from stepcredit.objectives.sums import Sums, explained_of, mean_of, spread_of


def group_value(returns: Sequence[float], beta: float) -> float:
    """Returns V̂(x) = β_1 log (1/K) Σ_k exp(r_k / β_1) of the K responses to a prompt, in double precision.

    Estimates V*(x) = β_1 log E exp(r / β_1) from responses of the reference. It lies between their mean, for large β_1,
    and the best of them, for small β_1, and does not depend on their order.

    Args:
        returns: r_k, the return of each response; at least one.
        beta: β_1 > 0, in units of reward.

    Source: A*-PO (arXiv 2505.20686), stage 1; OAPL, section 3.
    """
    best = max(returns)
    return best + beta * math.log(math.fsum(math.exp((r - best) / beta) for r in returns) / len(returns))


def oapl_loss(
    *,
    log_ratio_sum: Float[Tensor, " B"],
    total_reward: Float[Tensor, " B"],
    group_value: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Returns the loss of each response: L = ( β_2 Σ_t ρ_t - (r - V̂(x)) )².

    With V̂ = V* and β_1 = β_2 it is zero at the closed form π* = π_ref exp((r - V*) / β). It is the path residual of
    OREO and DRO at response level with V̂ in place of a trained V.

    Args:
        log_ratio_sum: Σ_t ρ_t over the action tokens of each response, in nats; the only gradient.
        total_reward: r, the return of each response.
        group_value: V̂(x) of its prompt, from `group_value`, constant.
        beta: β_2 > 0, the weight of the KL to the reference, in units of reward.

    Source: A*-PO (arXiv 2505.20686), stage 2; OAPL, section 3.
    """
    return (beta * log_ratio_sum - (total_reward - group_value)).square()


def oapl_metrics(
    *,
    log_ratio_sum: Float[Tensor, " B"],
    total_reward: Float[Tensor, " B"],
    group_value: Float[Tensor, " B"],
    beta: float,
) -> dict[str, Sums]:
    """Returns `values/initial`, `advantages/mean`, `advantages/std` and `advantages/explained_variance`.

    These are the mean of V̂(x), mean and spread of the advantage r - V̂(x), and the share of its variance that
    β_2 Σ_t ρ_t explains. No gradient flows.

    Args: as in `oapl_loss`.
    """
    advantage = total_reward - group_value
    return {
        "values/initial": mean_of(group_value),
        "advantages/mean": mean_of(advantage),
        "advantages/std": spread_of(advantage),
        "advantages/explained_variance": explained_of(advantage - beta * log_ratio_sum, advantage),
    }
