"""IQL: an expectile value function and a policy weighted by advantages (arXiv 2110.06169), without a reference.

Transitions are deterministic, so Q(s, a) = r + V(s') and no model of Q is needed: V alone is trained. Q-Evolve (arXiv
2606.07367) applies it to language models. There is no KL to a reference; what keeps the policy near the data is that it
only imitates actions in them.

The code below refers to these equations by number, with G^λ_s the λ-return of `dqo.lambda_return` for β = 0:

    (1)  L_V = 1/S Σ_s |κ - 1(u_s < 0)| u_s²,  u_s = sg[G^λ_s] - V(s_s)
    (2)  A_s = sg[ G^λ_s - V(s_s) ]
    (3)  L_π = -1/S Σ_s sg[ min(exp(A_s / β), w_max) ] log π(a_s|s_s),  log π(a_s|s_s) = Σ_{t in s} log π(a_t|s_t)
"""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from torch import Tensor

from stepcredit.objectives.bellman import Segments, gather_segments, masked_mean
from stepcredit.objectives.dqo import lambda_return
from stepcredit.objectives.sums import Sums, effective_share_of, mean_of
from stepcredit.objectives.value_losses import ValueLoss, squared


def iql_losses(
    *,
    value: Float[Tensor, "B T"],
    log_prob: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    segment_id: Int[Tensor, "B T"],
    beta: float,
    expectile: float,
    lam: float,
    max_weight: float,
    loss: ValueLoss = squared,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], dict[str, Sums]]:
    """Returns (policy loss (3), value loss (1), metrics) of each episode.

    The advantage (2) is the generalised advantage Σ_l λ^l δ_{s+l} with δ_s = r_s + V(s_{s+1}) - V(s_s), from which
    Q-Evolve makes its process rewards; λ = 0 is the one-step advantage Q(s, a) - V(s) of IQL. At κ = 1/2 the value
    loss is half a squared error, and V the mean of the returns; towards κ = 1 it is the best of them.

    Metrics are the effective share (Σ w)² / (n Σ w²) of the weights of all segments, and the share of weights at w_max.

    Args:
        value: V(s_t), read at the position before action t; only at the first action of a segment. V after the last
            action is zero, and never read.
        log_prob: log π(a_t|s_t), in nats; the only gradient of the policy loss.
        reward: r_t, on actions; zero elsewhere.
        segment_id: the segments of both losses, -1 outside actions.
        beta: β, the temperature of the weights, > 0, in units of reward; the inverse of IQL's β.
        expectile: κ in (0, 1), the paper's τ.
        lam: λ in [0, 1].
        max_weight: w_max > 0. The exponent is bounded, so a weight does not overflow.
        loss: how V is fitted to its targets; its minimum is the same expectile for all of them.

    Source: IQL, equations 5 to 7; Q-Evolve for the advantage.
    """
    at = gather_segments(log_prob, reward, value, segment_id)
    fixed = Segments(at.log_ratio.detach(), at.reward, at.value.detach(), at.mask)
    error = lambda_return(fixed, 0.0, lam) - at.value
    critic = (expectile - (error < 0).to(error.dtype)).abs() * loss(-error, at.value, segment_id)  # (1)
    exponent = error.detach() / beta  # (2)
    weight = exponent.clamp(max=math.log(max_weight)).exp()
    metrics = {
        "weights/effective_share": effective_share_of(weight[at.mask]),
        "weights/clipped": mean_of((exponent > math.log(max_weight))[at.mask]),
    }
    return masked_mean(-weight * at.log_ratio, at.mask), masked_mean(critic, at.mask), metrics  # (3)
