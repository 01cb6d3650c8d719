"""Token sequences of unequal length that a model has read, with their KV cache.

`GeneratedRows` only go on and drop out, with any cache that transformers has (sliding windows among them).
`CachedRows` can also be chosen, copied and joined, as a search needs; for that the cache must be plain attention.
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
class Rows(Protocol):
    """N sequences that a model has read."""

    def read_on(self, tokens: Sequence[int], going: Sequence[bool]) -> Float[Tensor, "M V"]:
        """Read one more token of each sequence that goes on; the logits after those M of the N."""
        ...

    def selected(self, index: Int[Tensor, " M"]) -> Any:
        """The rows of an index. Those that it does not name may be gone."""
        ...


class GeneratedRows:
    """Sequences that are read on to their ends, one token at a time, or dropped: with any cache of transformers.

    Args:
        model: a model that takes `past_key_values`.
        prompts: ids; each is read once.

    Attributes:
        logits: after each prompt, [N, V].
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        ids, self.mask = padded_left(prompts, model.device)
        self.position = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.logits = self._forward(ids)

    def read_on(self, tokens: Sequence[int], going: Sequence[bool]) -> Float[Tensor, "M V"]:
        """See `Rows.read_on`; a sequence that goes on no more must have been dropped."""
        assert all(going), "these rows have no place for a sequence that waits"
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        self.position = self.position[:, -1:] + 1
        return self._forward(torch.tensor(tokens, device=self.model.device)[:, None])

    def selected(self, index: Int[Tensor, " M"]) -> GeneratedRows:
        """See `Rows.selected`; the others are gone."""
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


class CachedRows:
    """N sequences that a model has read so far.

    Each may have masked columns anywhere; `compacted` moves them to the left and drops those that all have. Whatever
    is read next attends to the unmasked ones alone, at the positions that it would have without padding.

    Args:
        model: a model that takes `past_key_values`.
        cache: keys and values of T columns.
        mask: which columns are real.
    """

    def __init__(self, model: Any, cache: DynamicCache, mask: Int[Tensor, "N T"]) -> None:
        self.model = model
        self.cache = cache
        self.mask = mask

    @classmethod
    def empty(cls, model: Any, count: int) -> CachedRows:
        """`count` sequences without a token.

        Raises:
            InputError: the model's cache is not plain attention over everything before, so rows cannot be moved.
        """
        cache = DynamicCache(config=model.config)
        if not all(type(layer) is DynamicLayer for layer in cache.layers):
            raise InputError(
                f"{type(model).__name__} keeps no plain key-value cache of all tokens: not searchable", "model"
            )
        return cls(model, cache, torch.zeros(count, 0, dtype=torch.long, device=model.device))

    def __len__(self) -> int:
        return len(self.mask)

    def read(self, ids: Int[Tensor, "N S"], mask: Int[Tensor, "N S"], **given: Any) -> Any:
        """Read S more columns in place, and return the model's output for them; masked ones give rubbish."""
        before = self.mask.sum(-1, keepdim=True)
        positions = (before + mask.cumsum(-1) - 1).clamp(min=0)
        self.mask = torch.cat([self.mask, mask], dim=-1)
        return self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **given,
        )

    def read_on(self, tokens: Sequence[int], going: Sequence[bool]) -> Float[Tensor, "M V"]:
        """See `Rows.read_on`; the others read nothing."""
        mask = torch.tensor(going, device=self.model.device)
        ids = torch.tensor(tokens, device=self.model.device)
        logits: Tensor = self.read(ids[:, None], mask[:, None].long(), logits_to_keep=1).logits[:, -1]
        return logits[mask]

    def selected(self, index: Int[Tensor, " M"]) -> CachedRows:
        """The rows of an index, as often and in the order that it names them.

        Reading on in one leaves the other as it is: a copy, or the same states where all rows keep their places, for
        reading makes new ones.
        """
        if torch.equal(index.cpu(), torch.arange(len(self))):
            return self._with(self.mask, lambda states: states)
        return self._with(self.mask[index], lambda states: states[index])

    def compacted(self) -> CachedRows:
        """The same sequences, padded on the left to the longest."""
        longest = int(self.mask.sum(-1).max()) if len(self) else 0
        if longest == self.mask.shape[1]:
            return self
        column = self.mask.argsort(dim=-1, stable=True)[:, self.mask.shape[1] - longest :]

        def moved(states: Tensor) -> Tensor:
            return states.gather(2, column[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))

        return self._with(self.mask.gather(1, column), moved)

    def _with(self, mask: Tensor, change: Any) -> CachedRows:
        cache = DynamicCache(config=self.model.config)
        for number, layer in enumerate(self.cache.layers):
            if self.mask.shape[1]:
                _fill(cache, number, change(layer.keys), change(layer.values))
        return CachedRows(self.model, cache, mask)


def joined(parts: Sequence[CachedRows]) -> CachedRows:
    """The rows of all parts, one after the other, padded on the left to one length."""
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
    return CachedRows(model, cache, mask)


def _fill(cache: DynamicCache, number: int, keys: Tensor, values: Tensor) -> None:
    """Put the states of a layer into an empty cache, without the copy that `update` makes."""
    layer = cache.layers[number]
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values


def padded_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids [N, S], mask [N, S]) of rows of ids, at least one of them not empty."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for k, row in enumerate(rows):
        if row:
            ids[k, width - len(row) :] = torch.tensor(list(row))
            mask[k, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
