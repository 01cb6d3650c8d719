"""Freed memory is given back to the system during a training step on a CPU.

The C library keeps freed memory between tensors that live for later ones, and PyTorch, which asks for aligned memory,
does not fit a tensor into the place of another of its size. A step would hold a fifth more than its tensors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

OFTEN = 10
"""Layers after which freed memory is given back, which takes milliseconds."""
_LARGE = 2**18
"""Bytes of hidden states below which there is little to give back."""


@contextmanager
def giving_back(bodies: Iterable[Any]) -> Iterator[None]:
    """Context manager of a forward pass that gives freed memory back every few layers, and so in its backward pass."""
    layers = [layer for body in bodies for layer in getattr(body, "layers", ())[OFTEN - 1 :: OFTEN]]
    handles = [layer.register_forward_hook(_after) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _after(layer: Any, inputs: Any, output: Any) -> None:
    states = output[0] if isinstance(output, tuple) else output
    if isinstance(states, Tensor) and states.device.type == "cpu" and states.nbytes >= _LARGE:
        give_back()
        if states.requires_grad:
            states.register_hook(give_back)


def give_back(gradient: Any = None) -> None:
    """Gives freed memory back to the system, where the C library can."""
    if _TRIM is not None:
        _TRIM(0)


def _malloc_trim() -> Any | None:
    """Returns the function of glibc; None where the C library has none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


_TRIM = _malloc_trim()
