"""The head of a causal language model as a sum of linear maps of its last hidden states.

A fused head (`fused_head`) never calls the model's own head; it needs the weights. `linear_head` reads them from
the model, and `check_linear_head` compares the outcome with the model's own logits: an architecture that does something
else between hidden states and logits keeps the head it has.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from stepcredit.models.adapters import is_peft

Term = tuple[Tensor, Tensor]
"""A weight W_k [V, H_k] and its input x_k [N, H_k]."""


class LinearHead(NamedTuple):
    """The logits of a language model as a function of hidden states: cap(scale · Σ_k x_k W_kᵀ).

    Attributes:
        weights: W_k: the weight of the head, its bias as a column [V, 1], and the B of each LoRA adapter [V, r].
        scale: the factor of all logits.
        softcap: cap(z) = softcap · tanh(z / softcap); None: cap(z) = z.
    """

    weights: tuple[Float[Tensor, "V H_k"], ...]
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, inputs: tuple[Tensor, ...]) -> Float[Tensor, "N V"]:
        """Returns the logits of x_k [N, H_k], in float32 or wider."""
        wide = wide_dtype((*inputs, *self.weights))
        pairs = zip(inputs, self.weights, strict=True)
        z = sum((x.to(wide) @ weight.to(wide).t() for x, weight in pairs), torch.zeros((), dtype=wide)) * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


def wide_dtype(tensors: tuple[Tensor, ...]) -> torch.dtype:
    """Returns float32, or float64 if one of the tensors has it."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def linear_head(model: Any, hidden: Float[Tensor, "N H"]) -> tuple[LinearHead, tuple[Tensor, ...]] | None:
    """Returns the head of a causal language model and its inputs x_k, or None if it is not known to be linear.

    The weights are the model's own parameters, and the inputs have the graph of `hidden` and of the adapters' A, so
    gradients reach whatever is trained. An adapter counts as it is: active, or disabled (`disable_adapter`).

    Known are: a plain linear layer, with bias or without; LoRA on it, with one active adapter or several; a constant
    factor of the logits (`logit_scale` of Cohere, `logits_scaling` of Granite); the tanh of Gemma
    (`final_logit_softcapping`). Not known, hence None, are quantised weights, DoRA and other variants, merged adapters,
    other adapters than LoRA, layers with hooks, and a bias that is not finite.

    Args:
        model: a causal language model, or a PEFT model around one.
        hidden: its last hidden states, after the final norm.
    """
    base = model.get_base_model() if is_peft(model) else model
    terms = _terms_of_layer(base.get_output_embeddings(), hidden)
    if terms is None:
        return None
    config = base.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    weights, inputs = zip(*terms, strict=True)
    return LinearHead(weights, scale, None if cap is None else float(cap)), inputs


def check_linear_head(head: LinearHead, inputs: tuple[Tensor, ...], logits: Float[Tensor, "N V"]) -> bool:
    """Whether the logits of a head equal the model's own on each of a few rows, up to the rounding of its dtype.

    Logits of half precision come of inputs and weights that were rounded to it (autocast), so these are rounded too:
    pretrained models have a few large hidden states, whose rounding alone moves some logits by a percent.

    Args:
        head, inputs: from `linear_head`; without dropout, or both with the same.
        logits: the model's own logits at the same positions.
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        if logits.dtype not in (torch.float32, torch.float64):
            inputs = tuple(x.to(logits.dtype) for x in inputs)
            head = head._replace(weights=tuple(weight.to(logits.dtype) for weight in head.weights))
        found = head.logits(inputs)
        if found.shape != logits.shape:
            return False
        dtypes = {x.dtype for x in (*inputs, *head.weights, logits)}
        exact = 1e-4 if dtypes <= {torch.float32, torch.float64} else 1e-2
        difference = (found - logits.to(found.dtype)).norm(dim=-1)
        return bool((difference <= exact * found.norm(dim=-1)).all())


def _terms_of_layer(layer: Any, hidden: Tensor) -> list[Term] | None:
    """Returns the terms of an output embedding; None if it is none of the known layers."""
    if (type(layer).__module__, type(layer).__name__) != ("peft.tuners.lora.layer", "Linear"):
        return _terms_of_linear(layer, hidden)
    terms = None if layer.merged else _terms_of_linear(layer.base_layer, hidden)
    adapters = [] if layer.disable_adapters else [name for name in layer.active_adapters if name in layer.lora_A]
    for name in adapters:
        low, high, scaling = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
        x = low(layer.lora_dropout[name](hidden.to(low.weight.dtype))) * scaling
        more = None if name in layer.lora_variant else _terms_of_linear(high, x, scaling)
        terms = None if terms is None or more is None else terms + more
    return terms


def _terms_of_linear(layer: Any, x: Tensor, unit: float = 1.0) -> list[Term] | None:
    """Returns the terms of a plain linear layer, whose bias is multiplied by `unit`; None if it is not plain."""
    if type(layer) is not nn.Linear or not _is_plain(layer, x):
        return None
    terms: list[Term] = [(layer.weight, x)]
    if layer.bias is not None:
        if not bool(layer.bias.isfinite().all()):
            return None
        terms.append((layer.bias[:, None], x.new_full((len(x), 1), unit)))
    return terms


def _is_plain(layer: nn.Linear, x: Tensor) -> bool:
    """Whether a linear layer computes x Wᵀ and nothing else."""
    hooked = "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks
    plain = type(layer.weight) in (nn.Parameter, Tensor, FakeTensor) and layer.weight.is_floating_point()
    return plain and not hooked and layer.weight.device == x.device and layer.weight.shape[1] == x.shape[1]
