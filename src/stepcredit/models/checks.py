"""Checks of loaded models: the type of the head, complete and finite weights, and the vocabulary.

transformers initialises missing weights at random and drops unexpected ones. All loaders call `check_loaded`, so that
no such model is trained or sampled from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.models.value_bins import check_value_bins

Role = Literal["policy", "value model", "reward model"]

_KINDS = {
    "ForCausalLM": "policy",
    "LMHeadModel": "policy",
    "ForConditionalGeneration": "policy",
    "ForTokenClassification": "value model",
    "ForSequenceClassification": "reward model",
    "ForMaskedLM": "masked language model",
    "ForQuestionAnswering": "model that marks answers",
}
"""The role of a model, by the suffix of its architecture."""

MODEL_TYPES: dict[Role, str] = {
    "policy": "a causal language model",
    "value model": "a token classifier with one label",
    "reward model": "a sequence classifier with one label",
}
"""The transformers model type of each role."""

_SAVED_MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$")
"""Causal masks saved with the weights of GPT-2, GPT-Neo and GPT-J; projection biases have longer names."""

_PLACEHOLDERS = ("image_token", "video_token", "audio_token")
"""Placeholder tokens of other modalities; Gemma 3's small models have no embedding row for them."""


def check_loaded(model: Any, info: dict[str, Any], name: str, role: Role) -> None:
    """Checks that a model loaded by `from_pretrained` is complete and of the right type.

    transformers does not report tied weights and recomputed buffers as missing.

    Args:
        model: the loaded model.
        info: the result of `output_loading_info=True`, with `ignore_mismatched_sizes=True`.
        name: the folder or name that it was loaded from.
        role: the role of the model.

    Raises:
        InputError: the model is of another type or has more than one label (a value model: and no bins), or weights are
            missing, unexpected, of another shape, or not finite.
    """
    _check_kind(model, name, role)
    if shapes := sorted(info["mismatched_keys"]):
        key, saved, configured = shapes[0]
        raise InputError(
            f"{key} has shape {list(saved)} in the weights and {list(configured)} in config.json{_and_more(shapes)}; "
            "copy both from one model", name,
        )  # fmt: skip
    if info["missing_keys"]:
        raise InputError(f"weights are missing: {listed(info['missing_keys'])}; give a complete {role}", name)
    buffers = {name for name, _ in model.named_buffers()}  # saved by older versions of transformers
    unexpected = [key for key in info["unexpected_keys"] if key not in buffers and not _SAVED_MASK.search(key)]
    if unexpected:
        raise InputError(
            f"unexpected weights: {listed(unexpected)}; give {MODEL_TYPES[role]}, "
            "as described by its config.json", name,
        )  # fmt: skip
    check_finite(model, name)


def check_finite(model: nn.Module, name: str) -> None:
    """Checks that all parameters are finite, in one pass without copies.

    Raises:
        InputError: some are NaN or infinite.
    """
    if nonfinite := [key for key, weight in model.named_parameters() if not is_finite(weight)]:
        raise InputError(f"weights are NaN or infinite: {listed(nonfinite)}; the model is damaged", name)


def check_ids(ids: Iterable[NDArray[np.int32]], model: Any, name: str) -> None:
    """Checks that embedding and head have a row for every token id of some episodes.

    Raises:
        InputError: a token id is too large; the episodes probably come from another tokenizer.
    """
    rows, largest = min(_vocabulary_rows(model)), max((int(row.max()) for row in ids if row.size), default=0)
    if largest >= rows:
        raise InputError(f"has the token id {largest}, but the model only {rows} ids: another tokenizer?", name)


def check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    """Checks that embedding and head have a row for every id of the tokenizer.

    Raises:
        InputError: embedding or head have fewer rows than the tokenizer has ids.
    """
    ids, rows = _vocabulary_size(tokenizer), min(_vocabulary_rows(model))
    if rows < ids:
        raise InputError(
            f"the tokenizer has {ids} ids, but the model only {rows} (vocab_size); "
            "give the tokenizer that the model was trained with, or resize_token_embeddings", name,
        )  # fmt: skip


def check_same_tokens(tokenizer: Any, other: Any, name: str) -> None:
    """Checks that two tokenizers agree on all ids that both have, except for special tokens.

    Args:
        tokenizer: the policy's tokenizer.
        other: the tokenizer of the model that reads the policy's ids.
        name: the folder or name that that model was loaded from.

    Raises:
        InputError: an id stands for different tokens.
    """
    other_tokens = {i: token for token, i in other.get_vocab().items()}
    special = {*tokenizer.added_tokens_decoder, *other.added_tokens_decoder}
    differing = sorted(
        (i, token, other_tokens[i])
        for token, i in tokenizer.get_vocab().items()
        if i not in special and other_tokens.get(i, token) != token
    )
    if differing:
        i, token, other_token = differing[0]
        raise InputError(
            f"its vocabulary is not the policy's: id {i} is {other_token!r}, the policy's is {token!r} "
            f"({len(differing)} differ); give a model of the policy's family", name,
        )  # fmt: skip


def check_reference(reference: Any, policy: Any, name: str) -> None:
    """Checks that reference and policy have vocabularies of the same size.

    Raises:
        InputError: the sizes differ.
    """
    size, policy_size = _vocabulary_rows(reference)[-1], _vocabulary_rows(policy)[-1]
    if size != policy_size:
        raise InputError(
            f"its vocabulary is not the policy's: it has {size} tokens, the policy {policy_size}; give a model of the "
            "policy's family", name,
        )  # fmt: skip


def _check_kind(model: Any, name: str, role: Role) -> None:
    for architecture in model.config.architectures or ():
        kind = next((kind for end, kind in _KINDS.items() if architecture.endswith(end)), role)
        if kind != role:
            raise InputError(f"is a {kind} ({architecture}), not a {role}; give {MODEL_TYPES[role]}", name)
    labels = model.config.num_labels
    if role == "value model":
        check_value_bins(model.config, name)
    elif role == "reward model" and labels != 1:
        raise InputError(f"a {role} has one label, this one has {labels}", name)


def is_finite(weight: Tensor) -> bool:
    """Whether all numbers of a weight are finite, by its minimum and maximum: twenty times faster than `isfinite` on a
    CPU."""
    if weight.is_meta or not weight.is_floating_point() or not weight.numel():
        return True
    if weight.dtype.itemsize < 2:  # float8 has no aminmax
        weight = weight.to(torch.bfloat16)
    return all(torch.isfinite(extreme) for extreme in torch.aminmax(weight.detach()))


def _vocabulary_rows(model: Any) -> tuple[int, ...]:
    """The number of rows of the embedding and, if there is one, of the language-model head."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return tuple(layer.weight.shape[0] for layer in layers if layer is not None)


def _vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest id of the tokenizer, without placeholders of other modalities."""
    placeholders = {getattr(tokenizer, name, None) for name in _PLACEHOLDERS}
    return max((i for token, i in tokenizer.get_vocab().items() if token not in placeholders), default=-1) + 1


def listed(keys: Iterable[str], shown: int = 3) -> str:
    """Returns the first few names of weights and the number of the rest, for messages."""
    names = sorted(keys)
    return ", ".join(names[:shown]) + _and_more(names, shown)


def _and_more(items: list[Any], shown: int = 1) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
