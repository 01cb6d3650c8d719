"""Linear layers through oneDNN in training on a CPU.

PyTorch computes float32 products on a CPU by MKL, whose kernels for AMD processors lack AVX-512. oneDNN's have it, and
give the same numbers up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SIZE = 2**17
"""Weights below this, of small models, are left to MKL, so that their runs are the same on every machine."""


@contextmanager
def onednn_linears(bodies: Iterable[nn.Module]) -> Iterator[None]:
    """Context manager of a training step in which large float32 linear layers run in oneDNN, with their gradients."""
    layers = [layer for body in bodies for layer in body.modules() if type(layer) is nn.Linear and _is_large(layer)]
    for layer in layers:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _is_large(layer: nn.Linear) -> bool:
    weight = layer.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= _SIZE


def _forward(layer: nn.Linear, x: Float[Tensor, "*N H"]) -> Float[Tensor, "*N O"]:
    if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(x, layer.weight, layer.bias)
    output: Tensor = _Linear.apply(x, layer.weight, layer.bias)
    return output


class _Linear(torch.autograd.Function):
    """x Wᵀ + b and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*N H"], weight: Tensor, bias: Tensor | None) -> Float[Tensor, "*N O"]:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Float[Tensor, "*N O"]) -> Any:
        x, weight = ctx.saved_tensors
        flat, needs = g.reshape(-1, g.shape[-1]), ctx.needs_input_grad
        of_x = _product(flat, weight.t()).view(x.shape) if needs[0] else None
        of_weight = _product(flat.t(), x.reshape(-1, x.shape[-1]).t()) if needs[1] else None
        return of_x, of_weight, flat.sum(0) if needs[2] else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns x Wᵀ + b by oneDNN."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output


@torch.no_grad()
def onednn_speed(rows: int, inputs: int, outputs: int) -> float | None:
    """Returns the time of a linear layer by MKL over that by oneDNN; None where there is no oneDNN for it."""
    if not torch.backends.mkldnn.is_available() or inputs * outputs < _SIZE:
        return None
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    try:
        if not torch.allclose(_product(x, weight), torch.nn.functional.linear(x, weight), rtol=1e-3, atol=1e-3):
            return None
    except (AttributeError, RuntimeError):
        return None
    return _seconds(lambda: torch.nn.functional.linear(x, weight)) / _seconds(lambda: _product(x, weight))


def _seconds(product: Callable[[], Tensor]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return min(times)
