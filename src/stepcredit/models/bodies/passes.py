"""Forward passes of a transformer without its head: of whole rows, of rows that share prefixes, of its last layers."""

from __future__ import annotations

import copy
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from stepcredit.errors import InputError
from stepcredit.models.adapters import is_peft
from stepcredit.models.bodies.packing import run_packed

FIRST_LAYER = "stepcredit_first_layer"
"""Attribute of a body that is the end of another: the number of its first layer there."""


class Sequences(NamedTuple):
    """The inputs of a body for B rows of T positions: token ids, or the hidden states that enter its first layer.

    Attributes:
        tokens: ids [B, T] or hidden states [B, T, H].
        mask: 1 where the row has a token.
        prefix: ids [P, L] or hidden states [P, L, H] of the prefixes; None: the rows are whole.
        prefix_mask: 1 where the prefix has a token.
        prefix_row: the prefix of each row.
    """

    tokens: Int[Tensor, "B T"] | Float[Tensor, "B T H"]
    mask: Int[Tensor, "B T"]
    prefix: Int[Tensor, "P L"] | Float[Tensor, "P L H"] | None = None
    prefix_mask: Int[Tensor, "P L"] | None = None
    prefix_row: Int[Tensor, " B"] | None = None

    def rows(self, index: Int[Tensor, " N"]) -> Sequences:
        """Returns some of the rows, with all prefixes."""
        row = None if self.prefix_row is None else self.prefix_row[index]
        return self._replace(tokens=self.tokens[index], mask=self.mask[index], prefix_row=row)


def sequences(batch: dict[str, Any], states: str | None = None) -> Sequences:
    """Returns the inputs of a body from a batch (`episodes.alignment.Batch`, `episodes.prefixes`).

    Args:
        batch: fields by name.
        states: the field with hidden states, in the batch and its prefixes; None: token ids.
    """
    name = states or "input_ids"
    prefix = batch.get("prefix")
    if prefix is None:
        return Sequences(batch[name], batch["attention_mask"])
    return Sequences(batch[name], batch["attention_mask"], prefix[name], prefix["attention_mask"], batch["prefix_row"])


def base_of(model: Any) -> Any:
    """Returns the body of a language model or value model, with its adapters."""
    return (model.get_base_model() if is_peft(model) else model).base_model


def shares_prefixes(body: Any) -> bool:
    """Whether every layer of a body caches the keys and values of all tokens, as shared prefixes need."""
    return _keeps_everything(DynamicCache(config=body.config))


def _keeps_everything(cache: DynamicCache) -> bool:
    return all(type(layer) is DynamicLayer for layer in cache.layers)


class _LastLayersCache(DynamicCache):
    """The KV cache of a body's last layers, which keep their numbers in the whole body."""

    def __init__(self, config: Any, first: int) -> None:
        super().__init__(config=config)
        self.first = first

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        updated: tuple[Tensor, Tensor] = super().update(keys, values, layer_idx - self.first, *args, **kwargs)
        return updated


Way = Literal["whole", "shared", "packed"]
"""How sequences are read: each row with its prefix; prefixes once; prefixes once and without padding (`packing`)."""


def run(
    model: Any, inputs: Sequences, way: Way = "shared"
) -> tuple[Float[Tensor, "P L X"] | None, Float[Tensor, "B T X"]]:
    """Runs a body, or a whole language model, on sequences.

    Args:
        model: a body, which returns last hidden states, or a language model, which returns logits.
        inputs: the sequences.
        way: how they are read; prefixes have gradients in each way. Where the model has no cache of all keys and
            values, each row is read with its prefix.

    Returns:
        (the output at the prefixes' positions, None if they were not read by themselves; that at the rows' positions).
    """
    if way == "packed":
        return run_packed(model, *inputs)
    if inputs.prefix is None or inputs.prefix.shape[1] == 0:
        return None, _call(model, inputs.tokens, attention_mask=inputs.mask, use_cache=False)
    assert inputs.prefix_mask is not None
    assert inputs.prefix_row is not None
    mask = torch.cat([inputs.prefix_mask[inputs.prefix_row], inputs.mask], dim=-1)
    length = inputs.prefix_mask.sum(-1)[inputs.prefix_row]
    position = length[:, None] + torch.arange(inputs.tokens.shape[1], device=length.device)
    cache = _LastLayersCache(model.config, getattr(model, FIRST_LAYER, 0))
    if way == "whole" or not _keeps_everything(cache):
        tokens = torch.cat([inputs.prefix[inputs.prefix_row], inputs.tokens], dim=1)
        order = mask.argsort(dim=-1, descending=True, stable=True)  # without the padding after the prefix
        output = _call(model, _take(tokens, order), attention_mask=mask.gather(1, order), use_cache=False)
        return None, _take(output, position.clamp(max=output.shape[1] - 1))
    reads = inputs.prefix_mask.clone()
    reads[:, 0] = 1  # the attention of a row without any token is undefined; an empty prefix is masked out below
    prefix = _call(model, inputs.prefix, attention_mask=reads, past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        layer.keys = layer.keys.index_select(0, inputs.prefix_row)
        layer.values = layer.values.index_select(0, inputs.prefix_row)
    cached = {"past_key_values": cache, "use_cache": True}
    return prefix, _call(model, inputs.tokens, attention_mask=mask, position_ids=position, **cached)


def hidden_states(body: Any, inputs: Sequences, way: Way = "shared") -> Float[Tensor, "B T H"]:
    """Returns the last hidden states of a body at the rows' positions."""
    return run(body, inputs, way)[1]


def _take(x: Tensor, position: Int[Tensor, "B T"]) -> Tensor:
    """Returns positions of each row, [B, T, …]."""
    return x.gather(1, position.view(*position.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))


def _call(model: Any, tokens: Tensor, **inputs: Any) -> Tensor:
    if tokens.is_floating_point():
        output = model(inputs_embeds=tokens.to(next(model.parameters()).dtype), **inputs)
    else:
        output = model(input_ids=tokens, **inputs)
    states: Tensor = output.last_hidden_state if hasattr(output, "last_hidden_state") else output.logits
    return states


def layer_count(body: Any, setting: str = "train_layers") -> int:
    """Returns the number of layers of a body.

    Raises:
        InputError: its architecture is not known: it has no list of layers with a norm after it. `setting` needs them.
    """
    if not isinstance(getattr(body, "layers", None), nn.ModuleList) or not hasattr(body, "norm"):
        raise InputError(f"{type(body).__name__} has no list of layers with a norm after it; leave this setting out",
                         setting)  # fmt: skip
    return len(body.layers)


def split(body: Any, last: int) -> tuple[Any, Any]:
    """Splits a body into two that share its modules: the embedding with the first layers, and the last layers.

    The second takes the hidden states that the first returns, and returns the last hidden states of the whole body.

    Args:
        body: a body.
        last: number of layers of the second part.

    Raises:
        InputError: the body has no such layers.
    """
    count = layer_count(body)
    if not 1 <= last < count:
        raise InputError(f"{last}: {type(body).__name__} has {count} layers; choose from 1 to {count - 1}",
                         "train_layers")  # fmt: skip
    first, second = _layers(body, 0, count - last), _layers(body, count - last, count)
    first._modules["norm"] = nn.Identity()
    return first, second


def _layers(body: Any, start: int, stop: int) -> Any:
    """Returns a body with some of the layers of another, which it shares."""
    part = copy.copy(body)
    part.__dict__["_modules"] = {**body._modules, "layers": body.layers[start:stop]}
    part.config = copy.deepcopy(body.config)
    part.config.num_hidden_layers = stop - start
    if getattr(part.config, "layer_types", None) is not None:
        part.config.layer_types = part.config.layer_types[start:stop]
    setattr(part, FIRST_LAYER, start)
    return part


def freeze_all_but(body: Any, last: int) -> None:
    """Freezes a body but for its last layers and the norm after them."""
    body.requires_grad_(False)
    for part in (*body.layers[-last:], body.norm):
        part.requires_grad_(True)
