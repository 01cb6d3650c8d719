"""DPO: direct preference optimisation on pairs of responses to one prompt (arXiv 2305.18290)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from stepcredit.objectives.sums import Sums, mean_of


def dpo_loss(*, chosen: Float[Tensor, " P"], rejected: Float[Tensor, " P"], beta: float) -> Float[Tensor, " P"]:
    """Returns the DPO loss of each pair.

        L = -log σ( β (Σ_t ρ_t of the chosen response - Σ_t ρ_t of the rejected one) )

    This is the negative log-likelihood of the preference under the Bradley-Terry model with the policy's
    implied reward β Σ_t ρ_t; terms that the two responses share, such as log Z(x), cancel. If preferences
    follow rewards r, the expected loss is minimal at π ∝ π_ref exp(r/β). If every preference is certain, as
    between a right and a wrong response, it has no minimum, and β only sets how fast the gradient decays with
    the margin.

    Args:
        chosen, rejected: Σ_t ρ_t over the action tokens of each response of a pair, in nats; both carry a
            gradient, and there is no stop-gradient.
        beta: strength of the pull towards the reference, > 0, in units of reward.

    Source: DPO, equation 7.
    """
    return -logsigmoid(beta * (chosen - rejected))  # (7)


def dpo_metrics(*, chosen: Float[Tensor, " P"], rejected: Float[Tensor, " P"], beta: float) -> dict[str, Sums]:
    """Returns `rewards/chosen`, `rewards/rejected`, `rewards/accuracies` and `rewards/margins`, as in TRL.

    These are means over pairs of the implied rewards β Σ_t ρ_t, of whether the chosen response's is larger (ties
    count as no), and of their difference. No gradient flows.

    Args: as in `dpo_loss`.
    """
    better, worse = beta * chosen.detach(), beta * rejected.detach()
    return {
        "rewards/chosen": mean_of(better),
        "rewards/rejected": mean_of(worse),
        "rewards/accuracies": mean_of(better > worse),
        "rewards/margins": mean_of(better - worse),
    }
