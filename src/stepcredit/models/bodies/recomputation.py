"""Cheap parts of a forward pass are computed again in the backward pass, for less memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from stepcredit.models.bodies.attention import attending

ATTENTION = "stepcredit_recomputed"
"""Name of the attention in transformers' registry."""

_WEIGHT = {"aten.mm.default": 1, "aten.bmm.default": 1, "aten.addmm.default": 2, "mkldnn._linear_pointwise.default": 1}
"""Products by name, with the place of the weight among their arguments."""


@contextmanager
def recomputing(bodies: Iterable[Any]) -> Iterator[None]:
    """Context manager of a forward pass whose cheap parts are computed again in the backward pass.

    These are norms, activation functions, the copies of keys and values for the heads of a group, and products that
    narrow. Attention and products that widen are kept, so two fifths of the memory for activations cost little time.
    """
    bodies = list(bodies)
    parts = [part for body in bodies for layer in body.layers for name, part in layer.named_children()
             if name == "mlp" or "Norm" in type(part).__name__]  # fmt: skip
    for part in parts:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False, context_fn=_WIDENING_KEPT)
    try:
        with ExitStack() as stack:
            for body in bodies:
                stack.enter_context(attending(body, ATTENTION, instead_of="sdpa"))
            yield
    finally:
        for part in parts:
            del part.forward


def _is_kept(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keeps the output of a linear layer that is at least as wide as its input."""
    name = str(operation)
    if name in _WEIGHT:
        inputs, outputs = args[_WEIGHT[name]].shape[-2:]
        if inputs == outputs or (inputs < outputs) != name.startswith("mkldnn"):  # whose weight is [outputs, inputs]
            return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _is_attention(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    keep = str(operation).startswith("aten._scaled_dot_product")
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


_WIDENING_KEPT = partial(create_selective_checkpoint_contexts, _is_kept)
_ATTENTION_KEPT = partial(create_selective_checkpoint_contexts, _is_attention)


def _attention(*tensors: Any, **settings: Any) -> Any:
    """Attention in the form of transformers' attention functions."""
    return checkpoint(sdpa_attention_forward, *tensors, use_reentrant=False, context_fn=_ATTENTION_KEPT, **settings)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
