"""The published OREO scheme, written from its equations: three whole models on left-padded rows, with full logits.

For each micro-batch: the policy without gradient for the value loss; the reference; value model forward and backward;
the policy with gradient, and backward. Log-softmax over the vocabulary at every position, prompts and padding
included, and the exact KL from it. Eight body passes (a backward pass counts twice) and five head products. No
gradient checkpointing.

Source: arXiv 2412.16145, with the passes that its published implementation makes.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.baseline_steps import Models, Rows, policy_loss, value_loss, values


def backward(models: Models, rows: Rows, share: float) -> tuple[float, float]:
    """Adds the gradients of one micro-batch; returns the losses of policy and value."""
    with torch.no_grad():
        before = _of_action(_log_softmax(models.policy, rows), rows)
        reference = _log_softmax(models.reference, rows)
    ref_log_prob = _of_action(reference, rows)
    value = values(models.value, rows)
    of_value = share * value_loss(value, before - ref_log_prob, rows)
    of_value.backward()
    log_pi = _log_softmax(models.policy, rows)
    kl = (log_pi.exp() * (log_pi - reference)).sum(-1)
    of_policy = share * policy_loss(value, _of_action(log_pi, rows) - ref_log_prob, kl, rows)
    of_policy.backward()
    return float(of_policy.detach()), float(of_value.detach())


def _log_softmax(model: Any, rows: Rows) -> Float[Tensor, "B T-1 V"]:
    logits = model(**rows.model_inputs).logits[:, :-1]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _of_action(log_pi: Float[Tensor, "B T-1 V"], rows: Rows) -> Float[Tensor, "B T-1"]:
    return log_pi.gather(-1, rows.action[..., None])[..., 0]
