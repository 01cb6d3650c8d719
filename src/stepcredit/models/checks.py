"""Whether a model that was loaded is whole and fits its use: the kind of its head, its weights, its vocabulary.

transformers fills what a folder lacks with random numbers and drops what it has no place for. Every loader asks
`check_loaded`, so that no such model is trained or sampled from.
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
"""By what the name of an architecture ends in: what a model of that kind can be here."""

WANTED: dict[Role, str] = {
    "policy": "a causal language model",
    "value model": "a token classifier with one label",
    "reward model": "a sequence classifier with one label",
}
"""What a model is, in transformers' words."""

_SAVED_MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$")
"""The causal mask in GPT-2's, GPT-Neo's and GPT-J's published weights; the biases of projections have their names."""

_STAND_INS = ("image_token", "video_token", "audio_token")
"""Tokens that stand for what is no text: Gemma 3's small models have the tokenizer's, and no row for it."""


def check_loaded(model: Any, info: dict[str, Any], name: str, role: Role) -> None:
    """Whether what `from_pretrained` made is whole, and of the kind that it is to be used as.

    Tied weights and buffers that are made anew are no missing weights: transformers leaves them out of `info`.

    Args:
        model: what was loaded.
        info: what `output_loading_info=True` gave, with `ignore_mismatched_sizes=True`.
        name: the folder or name that it was loaded from.
        role: what it is to be.

    Raises:
        InputError: a model of another kind; more than one label; weights that are missing, of another shape, have
            no place in the model, or are NaN or infinite.
    """
    _check_kind(model, name, role)
    if shapes := sorted(info["mismatched_keys"]):
        key, saved, configured = shapes[0]
        raise InputError(
            f"{key} is {list(saved)} in the weights and {list(configured)} by config.json{_and_more(shapes)}; "
            "the two are not of one model", name,
        )  # fmt: skip
    if info["missing_keys"]:
        raise InputError(f"weights are missing: {listed(info['missing_keys'])}; give a whole {role}", name)
    buffers = {name for name, _ in model.named_buffers()}  # which older versions saved, and masks too
    strangers = [key for key in info["unexpected_keys"] if key not in buffers and not _SAVED_MASK.search(key)]
    if strangers:
        raise InputError(
            f"weights that this model has no place for: {listed(strangers)}; give {WANTED[role]}, "
            f"as its config.json describes it", name,
        )  # fmt: skip
    check_finite(model, name)


def check_finite(model: nn.Module, name: str) -> None:
    """Whether every parameter is a finite number; one pass over them, without copies.

    Raises:
        InputError: some are NaN or infinite.
    """
    if spoilt := [key for key, weight in model.named_parameters() if not is_finite(weight)]:
        raise InputError(f"weights are NaN or infinite: {listed(spoilt)}; the model is damaged", name)


def check_ids(ids: Iterable[NDArray[np.int32]], model: Any, name: str) -> None:
    """Whether a model has a row for every token id of episodes.

    Raises:
        InputError: an id beyond its embedding or its head.
    """
    rows, largest = min(_rows(model)), max((int(row.max()) for row in ids if row.size), default=0)
    if largest >= rows:
        raise InputError(
            f"holds the token id {largest}, the model rows for {rows}: episodes of another tokenizer?", name
        )


def check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    """Whether a model has a row for every token that its tokenizer may write.

    Raises:
        InputError: its embedding, or its head, has fewer rows than the tokenizer has ids.
    """
    needed, rows = _ids_needed(tokenizer), min(_rows(model))
    if rows < needed:
        raise InputError(
            f"the tokenizer has {needed} ids, the model rows for {rows} (vocab_size); "
            "give the tokenizer that the model was trained with, or resize_token_embeddings", name,
        )  # fmt: skip


def check_same_tokens(tokenizer: Any, other: Any, name: str) -> None:
    """Whether each id means the same token to both tokenizers, wherever both know it; special ones may be renamed.

    Args:
        tokenizer: the policy's.
        other: of the model that is to read the policy's ids.
        name: what that model was loaded from.

    Raises:
        InputError: an id that means something else.
    """
    known = {i: token for token, i in other.get_vocab().items()}
    special = {*tokenizer.added_tokens_decoder, *other.added_tokens_decoder}
    differing = sorted(
        (i, token, known[i])
        for token, i in tokenizer.get_vocab().items()
        if i not in special and known.get(i, token) != token
    )
    if differing:
        i, token, there = differing[0]
        raise InputError(
            f"its vocabulary is not the policy's: id {i} is {there!r} here and {token!r} there "
            f"({len(differing)} differ); give a model of the policy's family", name,
        )  # fmt: skip


def check_reference(reference: Any, policy: Any, name: str) -> None:
    """Whether a reference has log-probabilities of the very actions that the policy has.

    Raises:
        InputError: its head is of another width.
    """
    here, there = _rows(reference)[-1], _rows(policy)[-1]
    if here != there:
        raise InputError(
            f"its vocabulary is not the policy's: {here} tokens here, {there} there; give a model of the policy's "
            "family", name,
        )  # fmt: skip


def _check_kind(model: Any, name: str, role: Role) -> None:
    for architecture in model.config.architectures or ():
        kind = next((kind for end, kind in _KINDS.items() if architecture.endswith(end)), role)
        if kind != role:
            raise InputError(f"is a {kind} ({architecture}), not a {role}; give {WANTED[role]}", name)
    labels = model.config.num_labels
    if role != "policy" and labels != 1:
        raise InputError(f"a {role} has one label, this one has {labels}", name)


def is_finite(weight: Tensor) -> bool:
    """Whether every number of a weight is finite: by the extremes, which are NaN where a number is; much faster than
    `isfinite` on a CPU (twenty times)."""
    if weight.is_meta or not weight.is_floating_point() or not weight.numel():
        return True
    if weight.dtype.itemsize < 2:  # float8 knows no extremes
        weight = weight.to(torch.bfloat16)
    return all(torch.isfinite(extreme) for extreme in torch.aminmax(weight.detach()))


def _rows(model: Any) -> tuple[int, ...]:
    """How many ids the embedding has, and the head where it writes tokens."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return tuple(layer.weight.shape[0] for layer in layers if layer is not None)


def _ids_needed(tokenizer: Any) -> int:
    """One more than the largest id of text; the tokens that stand for images and the like are none."""
    stand_ins = {getattr(tokenizer, name, None) for name in _STAND_INS}
    return max((i for token, i in tokenizer.get_vocab().items() if token not in stand_ins), default=-1) + 1


def listed(keys: Iterable[str], shown: int = 3) -> str:
    """The first few names of weights, and how many more."""
    names = sorted(keys)
    return ", ".join(names[:shown]) + _and_more(names, shown)


def _and_more(found: list[Any], shown: int = 1) -> str:
    return f" and {len(found) - shown} more" if len(found) > shown else ""
