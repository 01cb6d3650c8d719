"""Memory and floating-point operations of whatever runs, by the part of the step that it belongs to."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_COUNTS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda d, q, k, v, *_, **__: (
        sdpa_backward_flop_count(d.shape, q.shape, k.shape, v.shape)
    ),
    torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * x.numel() * len(weight),
}
"""Operations of matrix products and attention by their arguments: PyTorch's, and those of a CPU that it leaves out."""
BACKWARD = "backward pass"
"""The part of the memory that a backward pass allocates and that is no gradient of a parameter."""


class Recorder(TorchDispatchMode):
    """Records the tensors that are alive, real or fake, and the operations of matrix products and attention.

    Memory is counted by storage, from its first tensor until it is freed; tensors made before do not count.

    Args:
        known: tensors whose views do not count either, such as parameters.

    Attributes:
        part: what is running.
        backward: whether this is a backward pass, whose memory is not that of the part.
        live: bytes that are alive, by part.
        peak, at_peak: the most bytes that were alive, and by part at that moment.
        flops: operations by part; a product of [n, k] and [k, m] has 2 n k m.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.part, self.backward = "", False
        self.live: Counter[str] = Counter()
        self.peak, self.at_peak = 0, Counter[str]()
        self.flops: Counter[str] = Counter()
        self._storages: dict[int, tuple[Any, list[str], int]] = {
            tensor.untyped_storage()._cdata: (tensor, [""], 0) for tensor in known
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in _COUNTS:
            self.flops[self.part] += _COUNTS[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return out

    @contextmanager
    def running(self, part: str) -> Iterator[None]:
        """Records what runs meanwhile as a part."""
        before, self.part = self.part, part
        try:
            with self:
                yield
        finally:
            self.part = before

    def belongs_to(self, tensor: Tensor, part: str) -> None:
        """Moves the memory of a tensor to a part."""
        _, named, size = self._storages.get(tensor.untyped_storage()._cdata, (None, [""], 0))
        self.live[named[0]] -= size
        self.live[part] += size
        named[0] = part

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        named = [BACKWARD if self.backward else self.part]

        def freed(_: Any) -> None:
            self.live[named[0]] -= size
            del self._storages[key]

        self._storages[key] = (weakref.ref(storage, freed), named, size)
        self.live[named[0]] += size
        if self.live.total() > self.peak:
            self.peak, self.at_peak = self.live.total(), self.live.copy()
