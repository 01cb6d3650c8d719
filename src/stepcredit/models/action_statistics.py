"""Log-probabilities, exact KL and entropy of actions, from the logits of policy and reference.

Only this module needs the logits: a fused head that never materialises them could return the same `ActionStatistics`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class ActionStatistics(NamedTuple):
    """Statistics of the actions, over action columns [B, A]; zero outside actions. In nats, float32 or wider."""

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
    """Computes log-probability and entropy of each action, and the exact KL[π ‖ π_ref] at its state.

    Prompts, observations and padding are dropped before the softmax. Logits of -∞, from a masked vocabulary, do not
    contribute to entropy and KL; where only the reference has them, the KL is ∞.

    Args:
        logits: the policy's logits at the states of the actions (see `episodes.alignment.at_states`).
        ref_logits: the reference's logits, or None; no gradient flows into them.
        action: the action at each state.
        action_mask: true where there is an action.
    """
    index = action_mask.flatten().nonzero()[:, 0]
    actions = action.flatten()[index][:, None]
    log_pi = _log_softmax(_select(logits, index))
    pi = log_pi.exp()
    entropy = -_expected(pi.detach(), log_pi.detach())
    log_prob = _scatter(log_pi.gather(-1, actions)[:, 0], action_mask)
    if ref_logits is None:
        return ActionStatistics(log_prob, _scatter(entropy, action_mask))
    log_ref = _log_softmax(_select(ref_logits.detach(), index))
    kl = _expected(pi, log_pi - log_ref)
    return ActionStatistics(
        log_prob,
        _scatter(entropy, action_mask),
        _scatter(log_ref.gather(-1, actions)[:, 0], action_mask),
        _scatter(kl, action_mask),
    )


def _select(logits: Float[Tensor, "B A V"], index: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """Selects rows by `index_select`, whose backward pass is a quarter cheaper on a CPU than that of a boolean mask."""
    return logits.reshape(-1, logits.shape[-1]).index_select(0, index)


def _log_softmax(logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).log_softmax(-1)


def _expected(pi: Float[Tensor, "N V"], x: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Returns Σ_a π(a) x(a) over the support of π, so that 0 · log 0 and its gradient are 0."""
    return (pi * torch.where(pi > 0, x, 0.0)).sum(-1)


def _scatter(numbers: Float[Tensor, " N"], action_mask: Bool[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    return numbers.new_zeros(action_mask.shape).masked_scatter(action_mask, numbers)
