"""Linear layers whose weights are packed for oneDNN, for inference on a CPU.

oneDNN reads weights in a blocked layout of its own. Packed layers keep them in it, instead of reordering them at every
call; and float32 products run in oneDNN instead of MKL, whose kernels for AMD processors lack AVX-512.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16)
_TOLERANCE = 0.05
"""Allowed error of logits, relative to the largest one; bf16 rounds hidden states to 0.4%."""


class PackedLinear(torch.nn.Module):
    """A linear layer with its weight in oneDNN's layout; it can neither be trained nor saved."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: Float[Tensor, "*N H"]) -> Float[Tensor, "*N O"]:
        """Returns x Wᵀ + b, accumulated in float32."""
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, "none", [], "")
        return outputs


@torch.no_grad()
def packed(model: Any) -> Any:
    """Replaces the linear layers of a model by packed ones, in place, and frees their weights; returns the model.

    The model stays as it is on a GPU, without oneDNN, and if its logits with packed layers are not the same: some
    architectures read the weight of a layer themselves.

    Args:
        model: a model of transformers, for inference only.
    """
    linears = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is torch.nn.Linear and layer.weight.dtype in _DTYPES
    ]
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not linears:
        return model
    ids = torch.arange(8)[None] % model.config.get_text_config().vocab_size
    was_training, plain = model.training, model.eval()(input_ids=ids, use_cache=False).logits
    try:
        for parent, name, layer in linears:
            setattr(parent, name, PackedLinear(layer))
        error = (model(input_ids=ids, use_cache=False).logits - plain).abs().max()
        is_equal = bool(error <= _TOLERANCE * plain.abs().max())
    except (AttributeError, RuntimeError, TypeError):
        is_equal = False
    if not is_equal:
        for parent, name, layer in linears:
            setattr(parent, name, layer)
    return model.train(was_training)
