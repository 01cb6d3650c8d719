"""Maximum likelihood on action tokens: SFT, and rejection-sampling fine-tuning (RFT) on the right ones."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def negative_log_likelihood(log_prob: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """-Σ_t log π(a_t|s_t) of each episode, over its action tokens, in nats.

    The sum and not the mean: the trainer divides by the number of action tokens of the whole batch, so
    that every token weighs the same, as in supervised fine-tuning everywhere.
    """
    return -torch.where(action_mask, log_prob, torch.zeros_like(log_prob)).sum(-1)
