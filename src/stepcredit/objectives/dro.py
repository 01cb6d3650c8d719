"""DRO-V: direct reward optimisation with a value function of the prompt (arXiv 2405.19107)."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.objectives.oreo import oreo_policy_loss, oreo_value_loss


def dro_losses(
    *,
    value: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    action_mask: Bool[Tensor, "B T"],
    tau: float,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(policy loss, value loss) of each episode: ½ (r - V(x) - τ Σ_t ρ_t)², the policy's divided by τ.

    The response is one segment and V is read before its first action: the response level of the path residual.
    The value loss holds ρ fixed and the policy loss holds V fixed.

    Args:
        value, log_ratio, reward: as in `oreo_policy_loss`; r is the sum of the rewards.
        action_mask: where there is an action.
        tau: τ > 0, strength of the pull towards the reference.

    Source: DRO, equations 9 to 11.
    """
    response = action_mask.long() - 1  # 0 on actions, -1 elsewhere: one segment
    policy = oreo_policy_loss(value=value, log_ratio=log_ratio, reward=reward, segment_id=response, beta=tau)
    critic = oreo_value_loss(value=value, log_ratio=log_ratio, reward=reward, segment_id=response, beta=tau)
    return 0.5 * policy / tau, 0.5 * critic
