"""What the baselines of a step share: three models, padded rows, OREO's losses at token level, and the optimizer.

The losses are written from the paper's equations (arXiv 2412.16145), not with the library's objectives, which they are
compared with: `tests/benchmarks/test_baseline_steps.py` requires equal losses and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from stepcredit.episodes.alignment import Trajectory
from stepcredit.models.loading import disable_dropout, frozen_copy, value_model_from

BETA, ALPHA = 0.03, 0.01
"""Weights of log-ratios and of the exact KL: the paper's, and the defaults of `OREOConfig`."""
LEARNING_RATE, ADAM_BETAS, CLIP = 5e-6, (0.9, 0.95), 1.0


class Models(NamedTuple):
    """Policy, value model and reference: three whole models."""

    policy: nn.Module
    value: nn.Module
    reference: nn.Module


class Rows(NamedTuple):
    """Padded episodes; the output at position p is that of the state before token p + 1."""

    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    action_mask: Bool[Tensor, "B T-1"]
    reward: Float[Tensor, "B T-1"]

    @property
    def model_inputs(self) -> dict[str, Any]:
        """The arguments of a model's forward pass."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "use_cache": False,
        }

    @property
    def action(self) -> Int[Tensor, "B T-1"]:
        """The token after each position but the last."""
        return self.input_ids[:, 1:]


def three_models(policy: Any) -> Models:
    """Returns the policy, a value model and a reference made from it, without dropout."""
    models = Models(policy, value_model_from(policy).to(policy.device), frozen_copy(policy))
    for model in models:
        disable_dropout(model)
    return models


def padded(trajectories: Sequence[Trajectory], side: str, device: Any = "cpu", pad: int = 0) -> Rows:
    """Returns episodes padded to the longest of them on one side, "left" or "right"."""
    width = max(map(len, trajectories))

    def column(of: Callable[[Trajectory], Any], fill: Any) -> Tensor:
        rows = []
        for t in trajectories:
            free = width - len(t)
            rows.append(np.pad(of(t), (free, 0) if side == "left" else (0, free), constant_values=fill))
        return torch.from_numpy(np.stack(rows)).to(device)

    mask = column(lambda t: np.ones(len(t), np.int64), 0)
    return Rows(
        input_ids=column(lambda t: t.ids.astype(np.int64), pad),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        action_mask=column(lambda t: t.action_mask, False)[:, 1:],
        reward=column(lambda t: t.reward, 0.0)[:, 1:],
    )


def suffix_sum(x: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    """Returns Σ_{i≥t} x_i."""
    return x.flip(-1).cumsum(-1).flip(-1)


def mean_over_actions(x: Float[Tensor, "B A"], mask: Bool[Tensor, "B A"]) -> Float[Tensor, ""]:
    """Returns the sum over episodes of the mean over their actions."""
    return (torch.where(mask, x, 0.0).sum(-1) / mask.sum(-1)).sum()


def value_loss(value: Tensor, log_ratio: Tensor, rows: Rows) -> Float[Tensor, ""]:
    """Returns Σ_episodes 1/T Σ_t (V(s_t) - R_t + sg[β Σ_{i≥t} ρ_i])²."""
    rho = torch.where(rows.action_mask, log_ratio, 0.0).detach()
    residual = value - suffix_sum(rows.reward) + BETA * suffix_sum(rho)
    return mean_over_actions(residual.square(), rows.action_mask)


def policy_loss(value: Tensor, log_ratio: Tensor, kl: Tensor, rows: Rows) -> Float[Tensor, ""]:
    """Returns Σ_episodes 1/T Σ_t (sg[V(s_t)] - R_t + β ρ_t + sg[β Σ_{i>t} ρ_i])² + α 1/T Σ_t KL_t."""
    rho = torch.where(rows.action_mask, log_ratio, 0.0)
    later = (suffix_sum(rho) - rho).detach()
    residual = value.detach() - suffix_sum(rows.reward) + BETA * rho + BETA * later
    return mean_over_actions(residual.square(), rows.action_mask) + ALPHA * mean_over_actions(kl, rows.action_mask)


def values(model: Any, rows: Rows) -> Float[Tensor, "B T-1"]:
    """Returns V at the state before each token but the first; the head computes in single precision or wider."""
    hidden = model.base_model(**rows.model_inputs).last_hidden_state[:, :-1]
    with torch.autocast(hidden.device.type, enabled=False):
        return model.score(hidden.to(torch.promote_types(hidden.dtype, torch.float32))).squeeze(-1)  # type: ignore


class BaselineStep:
    """An optimizer step of a baseline: gradients of all micro-batches, clipping, and AdamW, policy and value apart.

    Args:
        models: the three models.
        backward: adds the gradients of (models, rows, share) and returns the losses of policy and value, each the sum
            over the micro-batch's episodes times `share`.
        side: the side of the padding.
    """

    def __init__(self, models: Models, backward: Callable[[Models, Rows, float], tuple[float, float]], side: str):
        self.models, self.backward, self.side = models, backward, side
        groups = [{"params": list(model.parameters())} for model in models[:2]]
        device = next(models.policy.parameters()).device
        self.optimizer = torch.optim.AdamW(
            groups, LEARNING_RATE, betas=ADAM_BETAS, weight_decay=0.0, fused=device.type in ("cpu", "cuda")
        )
        self.device = device

    def __call__(self, episodes: Sequence[Trajectory], micro_batch: int) -> tuple[float, float]:
        """Makes one step on the episodes; returns the losses of policy and value."""
        self.optimizer.zero_grad(set_to_none=True)
        found = []
        for start in range(0, len(episodes), micro_batch):
            rows = padded(episodes[start : start + micro_batch], self.side, self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                found.append(self.backward(self.models, rows, 1 / len(episodes)))
        for model in self.models[:2]:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        self.optimizer.step()
        policy, value = zip(*found, strict=True)
        return sum(policy), sum(value)
