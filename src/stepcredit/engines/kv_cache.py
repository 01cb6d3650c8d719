"""KV caches of batches of sequences of unequal length.

`GenerationCache` appends tokens and drops sequences; it works with any cache of transformers (sliding windows too).
`CachedSequences` also selects, copies and concatenates sequences, as search needs; it requires full attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from stepcredit.errors import InputError

_ROOM = 64
"""Tokens for which a cache that is full is enlarged."""


class GrowingLayer(DynamicLayer):
    """Layer of a cache with room for further tokens, where appending copies the new tokens only.

    `keys` and `values` are views of larger tensors. Layers may share them, as only the layer that made the larger
    tensors appends to them; any other layer moves to tensors of its own then. A layer whose rows are selected is not
    shared, because it moves them in place.
    """

    _room: tuple[Tensor, Tensor]
    _view: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Creates a cache of no tokens for keys and values like these."""
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends keys and values [N, H, S, D]; returns all of them, [N, H, T, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, stop = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if self.keys is not self._view or stop > self._room[0].shape[2]:
            self._room = _with_room(self.keys, stop + _ROOM), _with_room(self.values, stop + _ROOM)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:stop] = states
        self._show(stop)
        return self.keys, self.values

    def batch_select_indices(self, indices: Int[Tensor, " M"]) -> None:
        """Keeps the rows in `indices`; copies only those that are not in their places already."""
        if self.keys is not self._view or len(indices) > len(self.keys):
            super().batch_select_indices(indices)
            return
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        for room, states in zip(self._room, (self.keys, self.values), strict=True):
            room[moved, :, : states.shape[2]] = states[indices[moved]]
        self._room = self._room[0][: len(indices)], self._room[1][: len(indices)]
        self._show(self.keys.shape[2])

    def _show(self, count: int) -> None:
        """Sets keys and values to the first `count` tokens of the larger tensors."""
        self.keys, self.values = (room[:, :, :count] for room in self._room)
        self._view = self.keys


def _with_room(states: Float[Tensor, "N H T D"], size: int) -> Float[Tensor, "N H size D"]:
    """Returns a copy of keys or values with room for `size` tokens, whose entries are undefined after the T."""
    room = states.new_empty(*states.shape[:2], size, states.shape[3])
    room[:, :, : states.shape[2]] = states
    return room


def _empty_cache(model: Any) -> DynamicCache:
    """Returns an empty cache of a model; its layers that keep all tokens are `GrowingLayer`s."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@runtime_checkable
class KVCache(Protocol):
    """KV cache of N sequences."""

    def read_on(self, tokens: NDArray[np.int64], active: NDArray[np.bool_]) -> Float[Tensor, "M V"]:
        """Append one token to each active sequence; returns the next-token logits of these M of the N sequences."""
        ...

    def selected(self, index: Int[Tensor, " M"]) -> Any:
        """Returns the cache of the sequences in `index`; the others may be dropped."""
        ...


class GenerationCache:
    """KV cache for plain generation: sequences grow by one token at a time or are dropped; any cache of transformers.

    Args:
        model: a model that takes `past_key_values`.
        prompts: token ids of each prompt.

    Attributes:
        logits: next-token logits of the prompts, [N, V].
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.cache = _empty_cache(model)
        ids, self.mask = padded_left(prompts, model.device)
        self.position = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.logits = self._forward(ids)

    def read_on(self, tokens: NDArray[np.int64], active: NDArray[np.bool_]) -> Float[Tensor, "M V"]:
        """See `KVCache.read_on`; finished sequences must have been dropped."""
        assert active.all(), "finished sequences must be dropped from this cache"
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        self.position = self.position[:, -1:] + 1
        return self._forward(torch.from_numpy(tokens)[:, None].to(self.model.device))

    def selected(self, index: Int[Tensor, " M"]) -> GenerationCache:
        """See `KVCache.selected`; changes this cache in place."""
        index = index.to(self.model.device)
        self.cache.batch_select_indices(index)
        self.mask, self.position = self.mask[index], self.position[index]
        return self

    def _forward(self, ids: Tensor) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]  # type: ignore[no-any-return]


class CachedSequences:
    """KV cache of N sequences whose rows can be selected and copied.

    A sequence may have masked columns anywhere; `compacted` moves them to the left and drops the columns masked in all
    sequences. New tokens attend to unmasked columns only, at the positions they would have without padding.

    Args:
        model: a model that takes `past_key_values`.
        cache: keys and values of T columns.
        mask: 1 for the columns that hold a token.
    """

    def __init__(self, model: Any, cache: DynamicCache, mask: Int[Tensor, "N T"]) -> None:
        self.model = model
        self.cache = cache
        self.mask = mask

    @classmethod
    def empty(cls, model: Any, count: int) -> CachedSequences:
        """Returns the cache of `count` empty sequences.

        Raises:
            InputError: a layer of the model does not cache the keys and values of all tokens.
        """
        cache = _empty_cache(model)
        if not all(isinstance(layer, GrowingLayer) for layer in cache.layers):
            raise InputError(
                f"{type(model).__name__} keeps no plain key-value cache of all tokens: not searchable; sample instead",
                "model",
            )
        return cls(model, cache, torch.zeros(count, 0, dtype=torch.long, device=model.device))

    def __len__(self) -> int:
        return len(self.mask)

    def read(self, ids: Int[Tensor, "N S"], mask: Int[Tensor, "N S"], **model_args: Any) -> Any:
        """Append S columns in place; returns the model's output for them, which is undefined at masked ones."""
        before = self.mask.sum(-1, keepdim=True)
        positions = (before + mask.cumsum(-1) - 1).clamp(min=0)
        self.mask = torch.cat([self.mask, mask], dim=-1)
        return self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **model_args,
        )

    def read_on(self, tokens: NDArray[np.int64], active: NDArray[np.bool_]) -> Float[Tensor, "M V"]:
        """See `KVCache.read_on`; the other sequences are unchanged."""
        mask = torch.from_numpy(active).to(self.model.device)
        ids = torch.from_numpy(tokens).to(self.model.device)
        logits: Tensor = self.read(ids[:, None], mask[:, None].long(), logits_to_keep=1).logits[:, -1]
        return logits[mask]

    def selected(self, index: Int[Tensor, " M"]) -> CachedSequences:
        """Returns the cache of the sequences in `index`, in its order and with repetitions.

        Appending to the result leaves this cache unchanged. It shares tensors with this one if `index` is the identity.
        """
        if torch.equal(index.cpu(), torch.arange(len(self))):
            return self._with(self.mask, lambda states: states)
        return self._with(self.mask[index], lambda states: states[index])

    def compacted(self) -> CachedSequences:
        """Returns the cache of the same sequences, left-padded to the longest."""
        longest = int(self.mask.sum(-1).max()) if len(self) else 0
        if longest == self.mask.shape[1]:
            return self
        column = self.mask.argsort(dim=-1, stable=True)[:, self.mask.shape[1] - longest :]

        def compact(states: Tensor) -> Tensor:
            return states.gather(2, column[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))

        return self._with(self.mask.gather(1, column), compact)

    def _with(self, mask: Tensor, change: Any) -> CachedSequences:
        cache = _empty_cache(self.model)
        for number, layer in enumerate(self.cache.layers):
            if self.mask.shape[1]:
                _fill(cache, number, change(layer.keys), change(layer.values))
        return CachedSequences(self.model, cache, mask)


def joined(parts: Sequence[CachedSequences]) -> CachedSequences:
    """Concatenates caches along the batch dimension, left-padded to one length."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.mask.shape[1] for part in parts)
    short = [width - part.mask.shape[1] for part in parts]
    mask = torch.cat([torch.nn.functional.pad(p.mask, (s, 0)) for p, s in zip(parts, short, strict=True)])
    model = parts[0].model
    cache = _empty_cache(model)
    for number in range(len(parts[0].cache.layers)):
        keys, values = (
            torch.cat(
                [
                    torch.nn.functional.pad(getattr(p.cache.layers[number], name), (0, 0, s, 0))
                    for p, s in zip(parts, short, strict=True)
                ]
            )
            for name in ("keys", "values")
        )
        _fill(cache, number, keys, values)
    return CachedSequences(model, cache, mask)


def _fill(cache: DynamicCache, number: int, keys: Tensor, values: Tensor) -> None:
    """Set the keys and values of a layer in an empty cache, without the copy that `update` makes."""
    layer = cache.layers[number]
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values


def padded_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns left-padded (ids [N, S], mask [N, S]); at least one row must not be empty."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for k, row in enumerate(rows):
        if row:
            ids[k, width - len(row) :] = torch.tensor(list(row))
            mask[k, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
