"""Maximum likelihood on action tokens, for SFT and rejection-sampling fine-tuning (RFT)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def negative_log_likelihood(log_prob: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Returns -Σ_t log π(a_t|s_t) of each episode, over its action tokens, in nats.

    A sum rather than a mean: the trainer divides by the number of action tokens of the whole batch, so that all
    tokens have equal weight, as is usual in supervised fine-tuning.
    """
    return -torch.where(action_mask, log_prob, torch.zeros_like(log_prob)).sum(-1)
