"""How V is fitted to its targets: by squares, or by classification over bins.

With bins c_1 < … < c_K, a head gives K logits z for each state, p = softmax(z), and

    (1)  V = Σ_k p_k c_k
    (2)  L(z, y) = -Σ_k h_k(y) log p_k,  h(y) the two-hot weights of a target y: those of the two bins around it whose
         mean is y, Σ_k h_k(y) c_k = y; targets beyond the first or last bin count as that bin
    (3)  ∂L/∂z_k = p_k - h_k(y)

At the minimum of a mean of (2) over targets, p is the mean of their weights, so V is the mean of the targets, as with
squares; with weights, the weighted mean. The gradient is bounded, whatever the scale of the rewards.

Source: two-hot targets: C51 (arXiv 1707.06887), MuZero (arXiv 1911.08265), "Stop Regressing" (arXiv 2403.03950).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stepcredit.objectives.bellman import first_of_segment, segment_sum

ValueLoss = Callable[[Float[Tensor, "B S"], Float[Tensor, "B S"], Int[Tensor, "B T"]], Float[Tensor, "B S"]]
"""`loss(residual, value, segment_id)`: the loss of each segment, from V minus its target and V at its first action."""


def squared(
    residual: Float[Tensor, "B S"], value: Float[Tensor, "B S"], segment_id: Int[Tensor, "B T"]
) -> Float[Tensor, "B S"]:
    """Returns the squared residuals."""
    return residual.square()


def expected_value(logits: Float[Tensor, "*N K"], bins: Float[Tensor, " K"]) -> Float[Tensor, "*N"]:
    """Returns V (1), in float32 or wider even under autocast, which would take a product of matrices in half.

    Args:
        logits: z, one for each bin.
        bins: c, increasing, in units of reward.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return (logits.to(wide).softmax(-1) * bins.to(wide)).sum(-1)


def two_hot(target: Float[Tensor, "*N"], bins: Float[Tensor, " K"]) -> Float[Tensor, "*N K"]:
    """Returns the weights h(y) of bins (2), without gradient.

    Args:
        target: y, in units of reward.
        bins: c, at least two, increasing.
    """
    y = target.detach().clamp(bins[0], bins[-1])
    left = (torch.searchsorted(bins, y, right=True) - 1).clamp(max=len(bins) - 2)
    share = (y - bins[left]) / (bins[left + 1] - bins[left])
    weights = y.new_zeros(*y.shape, len(bins))
    weights.scatter_(-1, left[..., None], (1 - share)[..., None])
    return weights.scatter_(-1, left[..., None] + 1, share[..., None])


@dataclass(frozen=True)
class Categorical:
    """The cross-entropy (2) as a `ValueLoss`.

    Attributes:
        logits: z [B, T, K], at the positions before actions; read, and trained, at the first action of a segment.
        bins: c [K], increasing, in units of reward.
    """

    logits: Float[Tensor, "B T K"]
    bins: Float[Tensor, " K"]

    def __call__(
        self, residual: Float[Tensor, "B S"], value: Float[Tensor, "B S"], segment_id: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B S"]:
        """Returns the cross-entropy of each segment; the gradient flows through the logits alone."""
        target = (value - residual).gather(-1, segment_id.clamp(min=0))  # of each position's segment
        weights = two_hot(target, self.bins.to(target.dtype))
        entropy = -(weights * self.logits.log_softmax(-1)).sum(-1)
        zero = torch.zeros_like(entropy)
        first = first_of_segment(segment_id)
        return segment_sum(torch.where(first, entropy, zero), segment_id, residual.shape[1])
