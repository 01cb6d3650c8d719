"""From a model's outputs to the numbers that objectives read: log-probabilities, exact KL, entropy.

This is the place where logits are held. A fused head that never holds them returns the same
`ActionStatistics`; nothing downstream can tell.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class ActionStatistics(NamedTuple):
    """Numbers of the taken actions over action columns [B, A]; zero where no action is. In nats, float32
    or wider."""

    log_prob: Float[Tensor, "B A"]
    entropy: Float[Tensor, "B A"]
    ref_log_prob: Float[Tensor, "B A"] | None = None
    kl: Float[Tensor, "B A"] | None = None


def action_statistics(
    logits: Float[Tensor, "B A V"],
    ref_logits: Float[Tensor, "B A V"] | None,
    action: Int[Tensor, "B A"],
    action_mask: Bool[Tensor, "B A"],
) -> ActionStatistics:
    """Log-probability of each action under policy and reference, and the exact KL[π ‖ π_ref] at its state.

    Only states of actions are looked at: prompts, observations and padding are dropped before the softmax. Logits of
    -∞, where the vocabulary is masked, have no part in entropy and KL; where the reference alone has them, the KL is ∞.

    Args:
        logits: the policy's, read at states (see `episodes.alignment.at_states`).
        ref_logits: the reference's, or None; no gradient flows into them.
        action: the id taken at each state.
        action_mask: where there is an action.
    """
    rows = action_mask.flatten().nonzero()[:, 0]
    taken = action.flatten()[rows][:, None]
    log_pi = _log_softmax(_rows(logits, rows))
    pi = log_pi.exp()
    entropy = -_expected(pi.detach(), log_pi.detach())
    log_prob = _scatter(log_pi.gather(-1, taken)[:, 0], action_mask)
    if ref_logits is None:
        return ActionStatistics(log_prob, _scatter(entropy, action_mask))
    log_ref = _log_softmax(_rows(ref_logits.detach(), rows))
    kl = _expected(pi, log_pi - log_ref)
    return ActionStatistics(
        log_prob,
        _scatter(entropy, action_mask),
        _scatter(log_ref.gather(-1, taken)[:, 0], action_mask),
        _scatter(kl, action_mask),
    )


def _rows(logits: Float[Tensor, "B A V"], rows: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """`index_select`: its gradient is a quarter cheaper on a CPU than that of a boolean mask."""
    return logits.reshape(-1, logits.shape[-1]).index_select(0, rows)


def _log_softmax(logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).log_softmax(-1)


def _expected(pi: Float[Tensor, "N V"], x: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Σ_a π(a) x(a), over the a that π can take: 0 · log 0 is 0, and so is its gradient."""
    return (pi * torch.where(pi > 0, x, 0.0)).sum(-1)


def _scatter(numbers: Float[Tensor, " N"], action_mask: Bool[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    return numbers.new_zeros(action_mask.shape).masked_scatter(action_mask, numbers)
