"""KV caches of batches of sequences of unequal length.

`GenerationCache` appends tokens and drops sequences; it works with any cache of transformers (sliding windows too).
`CachedSequences` also selects, copies and concatenates sequences, as search needs; it requires full attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from stepcredit.errors import InputError


@runtime_checkable
class KVCache(Protocol):
    """KV cache of N sequences."""

    def read_on(self, tokens: Sequence[int], active: Sequence[bool]) -> Float[Tensor, "M V"]:
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
        self.cache = DynamicCache(config=model.config)
        ids, self.mask = padded_left(prompts, model.device)
        self.position = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.logits = self._forward(ids)

    def read_on(self, tokens: Sequence[int], active: Sequence[bool]) -> Float[Tensor, "M V"]:
        """See `KVCache.read_on`; finished sequences must have been dropped."""
        assert all(active), "finished sequences must be dropped from this cache"
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        self.position = self.position[:, -1:] + 1
        return self._forward(torch.tensor(tokens, device=self.model.device)[:, None])

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
        cache = DynamicCache(config=model.config)
        if not all(type(layer) is DynamicLayer for layer in cache.layers):
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

    def read_on(self, tokens: Sequence[int], active: Sequence[bool]) -> Float[Tensor, "M V"]:
        """See `KVCache.read_on`; the other sequences are unchanged."""
        mask = torch.tensor(active, device=self.model.device)
        ids = torch.tensor(tokens, device=self.model.device)
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
        cache = DynamicCache(config=self.model.config)
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
    cache = DynamicCache(config=model.config)
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
