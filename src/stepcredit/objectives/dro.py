"""DRO-V: direct reward optimisation with a value function of the prompt (arXiv 2405.19107)."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.objectives.oreo import oreo_policy_loss, oreo_value_loss
from stepcredit.objectives.value_losses import ValueLoss, squared


def dro_losses(
    *,
    value: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    reward: Float[Tensor, "B T"],
    action_mask: Bool[Tensor, "B T"],
    tau: float,
    loss: ValueLoss = squared,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Returns (policy loss, value loss) of each episode: ½ (r - V(x) - τ Σ_t ρ_t)², the policy's divided by τ.

    The response is one segment, with V before its first action: the path residual at response level. The value loss
    has a stop-gradient on ρ, the policy loss on V.

    Args:
        value, log_ratio, reward: as in `oreo_policy_loss`; r is the sum of the rewards.
        action_mask: true where the position is an action.
        tau: τ > 0, the weight of the KL to the reference.
        loss: how V is fitted to its target.

    Source: DRO, equations 9 to 11.
    """
    response = action_mask.long() - 1  # 0 on actions, -1 elsewhere: one segment
    policy = oreo_policy_loss(value=value, log_ratio=log_ratio, reward=reward, segment_id=response, beta=tau)
    critic = oreo_value_loss(value=value, log_ratio=log_ratio, reward=reward, segment_id=response, beta=tau, loss=loss)
    return 0.5 * policy / tau, 0.5 * critic
