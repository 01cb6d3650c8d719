"""Forward passes of a body over packed sequences, without padding, by variable-length attention on a GPU."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface

from stepcredit.models.bodies.attention import attending

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before PyTorch 2.10
    varlen_attn = None  # type: ignore[assignment]

ATTENTION = "stepcredit_varlen"
"""Name of the attention in transformers' registry."""
_HALF = (torch.float16, torch.bfloat16)


class Layout(NamedTuple):
    """Where sequences lie in a packed tensor; a query attends to the keys of its sequence up to its own.

    Attributes:
        query, key: first query and first key of each sequence, and the ends of the last ones, [N + 1].
        most_queries, most_keys: those of the longest sequence.
    """

    query: Int[Tensor, " N1"]
    key: Int[Tensor, " N1"]
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Layout:
        """Returns the layout of sequences with so many queries and keys, whose last keys are those of the queries."""
        query, key = (torch.tensor([0, *n], device=device).cumsum(0).to(torch.int32) for n in (queries, keys))
        return cls(query, key, max(queries), max(keys))


def can_pack(body: Any, device: torch.device) -> bool:
    """Whether a body on a device may be run packed: half precision on a GPU, where PyTorch has the attention."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else next(body.parameters()).dtype
    return varlen_attn is not None and device.type == "cuda" and dtype in _HALF


def run_packed(
    body: Any,
    tokens: Tensor,
    mask: Int[Tensor, "B T"],
    prefix: Tensor | None,
    prefix_mask: Int[Tensor, "P L"] | None,
    prefix_row: Int[Tensor, " B"] | None,
) -> tuple[Float[Tensor, "P L H"] | None, Float[Tensor, "B T H"]]:
    """Runs a body on the sequences of `bodies.Sequences`; see `bodies.run`."""
    lengths = mask.sum(-1).tolist()
    with attending(body, ATTENTION):
        if prefix is None or prefix_mask is None or prefix_row is None or not int(prefix_mask.sum()):
            return None, _packed(body, tokens, mask, Layout.of(lengths, lengths, mask.device))
        before = prefix_mask.sum(-1).tolist()
        cache = _PackedCache()
        prefix_layout = Layout.of(before, before, mask.device)
        prefix_states = _packed(body, prefix, prefix_mask, prefix_layout, past_key_values=cache, use_cache=True)
        of_row = prefix_row.tolist()
        layout = Layout.of(lengths, [before[p] + n for p, n in zip(of_row, lengths, strict=True)], mask.device)
        cache.order = _key_order(prefix_layout.query.tolist(), layout.query.tolist(), of_row, mask.device)
        shift = prefix_mask.sum(-1)[prefix_row]
        return prefix_states, _packed(body, tokens, mask, layout, shift, past_key_values=cache, use_cache=True)


def _packed(
    body: Any, tokens: Tensor, mask: Int[Tensor, "B T"], layout: Layout, shift: Tensor | None = None, **cached: Any
) -> Float[Tensor, "B T H"]:
    """Runs a body on the tokens of all rows as one row; the output at padding is zero."""
    index = mask.flatten().nonzero()[:, 0]
    position = mask.cumsum(-1) - 1 if shift is None else mask.cumsum(-1) - 1 + shift[:, None]
    flat = tokens.flatten(0, 1).index_select(0, index)[None]
    name = "inputs_embeds" if flat.is_floating_point() else "input_ids"
    flat = flat.to(next(body.parameters()).dtype) if flat.is_floating_point() else flat
    given = {name: flat, "position_ids": position.flatten()[index][None], "use_cache": False, **cached}
    states: Tensor = body(**given, stepcredit_layout=layout).last_hidden_state[0]
    return states.new_zeros(mask.numel(), states.shape[-1]).index_copy(0, index, states).view(*mask.shape, -1)


class _PackedCache(DynamicCache):
    """Keys and values of packed prefixes, and behind them those of the rows, in the order that the rows attend to."""

    def __init__(self) -> None:
        super().__init__()
        self.order: Tensor | None = None
        self._prefix: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.order is None:
            self._prefix[layer_idx] = (keys, values)
            return keys, values
        pairs = zip(self._prefix[layer_idx], (keys, values), strict=True)
        keys, values = (torch.cat(pair, dim=2).index_select(2, self.order) for pair in pairs)
        return keys, values


def _key_order(
    prefix_start: Sequence[int], row_start: Sequence[int], of_row: Sequence[int], device: torch.device
) -> Int[Tensor, " M"]:
    """Returns the places of each row's keys, its prefix's and its own, behind one another."""
    behind = prefix_start[-1]
    pieces = []
    for row, p in enumerate(of_row):
        pieces.append(torch.arange(prefix_start[p], prefix_start[p + 1]))
        pieces.append(behind + torch.arange(row_start[row], row_start[row + 1]))
    return torch.cat(pieces).to(device)


def _attention(
    module: Any,
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G S D"],
    value: Float[Tensor, "1 G S D"],
    attention_mask: Any,
    scaling: float | None = None,
    stepcredit_layout: Layout | None = None,
    **ignored: Any,
) -> tuple[Float[Tensor, "1 T H D"], None]:
    """Attention of packed sequences, in the form of transformers' attention functions."""
    assert stepcredit_layout is not None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    layout = stepcredit_layout
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    sizes = (layout.query, layout.key, layout.most_queries, layout.most_keys)
    output: Any = varlen_attn(q, k, v, *sizes, scale=scaling, **causal)
    return output[None], None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, lambda *args, **kwargs: None)
