"""Builds the models of a training run from names, folders or models in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from stepcredit.errors import InputError, quoted
from stepcredit.models.actor_critic import ActorCritic
from stepcredit.models.adapters import is_peft, share_frozen_weights, with_adapter
from stepcredit.models.bodies.passes import base_of, freeze_all_but, layer_count, split
from stepcredit.models.checks import check_reference, check_vocabulary
from stepcredit.models.heads.value_heads import TrunkValue
from stepcredit.models.loading import (
    disable_dropout,
    frozen_copy,
    load_policy,
    load_reference,
    load_tokenizer,
    load_value_model,
    value_model_from,
)
from stepcredit.models.states import ValueStates
from stepcredit.models.value_bins import check_same_bins, set_value_bins
from stepcredit.training.data import TrainingData
from stepcredit.training.methods import method_of
from stepcredit.training.offline_config import OfflineConfig


def build_actor_critic(
    model: Any,
    value_model: Any,
    ref_model: Any,
    args: OfflineConfig,
    tokenizer: Any,
    peft_config: Any,
    value_peft_config: Any,
) -> ActorCritic:
    """Builds the policy and, where the method needs them, the value model and the reference.

    Arguments are as in `OfflineTrainer`; without a tokenizer, vocabularies are not compared. Models given by name are
    loaded in float32, so that small optimizer updates are not rounded away; `bf16` computes under autocast.
    `model_init_kwargs` may set another dtype for policy and reference. A value model in memory is converted to float32
    too.

    Raises:
        InputError: a model is incomplete or has another vocabulary, or an adapter does not fit.
    """
    method = method_of(args)
    init = {"dtype": torch.float32, **_init_kwargs(args)}
    policy = load_policy(model, **init) if isinstance(model, str) else model
    if tokenizer is not None:
        check_vocabulary(policy, tokenizer, model if isinstance(model, str) else "model")
    value, bins = None, getattr(args, "bins", None)
    if method.needs_value and not getattr(args, "shared_trunk", False):
        value = _value_model(policy, value_model, tokenizer, init, bins)
        if value_model is None and value_peft_config is not None and (peft_config is not None or is_peft(policy)):
            share_frozen_weights(value, policy)
        if value_peft_config is not None and not is_peft(value):
            value = with_adapter(value, _in_last_layers(value_peft_config, value, args), keep=("score",))
    if peft_config is not None and not is_peft(policy):
        policy = with_adapter(policy, _in_last_layers(peft_config, policy, args))
    if method.needs_value and value is None:
        if value_model is not None or value_peft_config is not None:
            raise InputError("cannot be used with shared_trunk, where V is a linear map of the policy's hidden states",
                             "value_model" if value_model is not None else "value_use_peft")  # fmt: skip
        value = TrunkValue(policy, bins)
    if args.train_layers is not None:
        for part in (policy, value):
            if part is not None and not isinstance(part, TrunkValue):
                _freeze_first_layers(part, args.train_layers)
    reference = None
    if method.needs_reference and not (ref_model is None and is_peft(policy)):
        reference = _reference(policy, ref_model, args, tokenizer, init)
    if args.disable_dropout:
        for part in (policy, value, reference):
            if part is not None:
                disable_dropout(part)
    if value is not None:  # a search must know at which states the value model is trained
        rule = args.step_rule
        ValueStates(args.value_segments, rule.delimiters, rule.max_tokens).describe(value.config)
        set_value_bins(value.config, bins)
    models = ActorCritic(policy, value, reference, args.train_layers)
    models.recomputes = args.recompute_activations
    for body in models.bodies.values() if models.recomputes else ():
        layer_count(body, "recompute_activations")
    return models


def _value_model(
    policy: Any, value_model: Any, tokenizer: Any, init: dict[str, Any], bins: Sequence[float] | None
) -> Any:
    """Returns the value model in float32 or wider: the policy's transformer with a zero head, by name, or as given.

    Raises:
        InputError: the given one has other bins than the config.
    """
    if value_model is None:
        value = value_model_from(policy.get_base_model() if is_peft(policy) else policy, bins)
    elif isinstance(value_model, str):
        value = load_value_model(value_model, tokenizer=tokenizer, **{**init, "dtype": torch.float32})
    else:
        value = value_model
    if tokenizer is not None:
        check_vocabulary(value, tokenizer, "value_model")
    check_same_bins(value.config, bins)
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _reference(policy: Any, ref_model: Any, args: OfflineConfig, tokenizer: Any, init: dict[str, Any]) -> Any:
    """Returns the reference: by name, as given, or a frozen copy of the policy; the policy itself if it is only needed
    before training."""
    if isinstance(ref_model, str):
        return load_reference(ref_model, policy, tokenizer, **init).eval().requires_grad_(False)
    if ref_model is not None:
        check_reference(ref_model, policy, "ref_model")
        return ref_model.eval().requires_grad_(False)
    return policy if args.precomputes else frozen_copy(policy)


def _in_last_layers(peft_config: Any, model: Any, args: OfflineConfig) -> Any:
    """Restricts an adapter to the layers that are trained."""
    if args.train_layers is None or getattr(peft_config, "layers_to_transform", None) is not None:
        return peft_config
    count = layer_count(base_of(model))
    peft_config.layers_to_transform = list(range(count - args.train_layers, count))
    return peft_config


def _freeze_first_layers(model: Any, last: int) -> None:
    """Freezes a model but for its last layers, the norm after them and the head of a value model.

    Raises:
        InputError: the model has no such layers, or an adapter changes others.
    """
    first = split(base_of(model), last)[0]
    if not is_peft(model):
        freeze_all_but(base_of(model), last)
        head = model.get_output_embeddings()
        if head is not None:
            head.requires_grad_(False)
    elif any(p.requires_grad for p in first.parameters()):
        raise InputError(f"the adapter also changes what lies before the last {last} layers; restrict "
                         "layers_to_transform", "train_layers")  # fmt: skip


def _init_kwargs(args: OfflineConfig) -> dict[str, Any]:
    return {**(args.model_init_kwargs or {}), "trust_remote_code": args.trust_remote_code}  # type: ignore[dict-item]


def tokenizer_of(model: Any, args: OfflineConfig) -> Any:
    """Loads the tokenizer of a policy that is given as a name or was loaded from one.

    Raises:
        InputError: the model was made in memory.
    """
    if not isinstance(model, str | nn.Module):
        raise InputError(f"must be a model or its name, not {quoted(model)}", "model")
    name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
    if not name:
        raise InputError("a model made in memory has no tokenizer; pass one", "processing_class")
    return load_tokenizer(name, trust_remote_code=args.trust_remote_code)


def note_text_prompts(policy: Any, tokenizer: Any, data: Any, say: Callable[[str], None]) -> None:
    """Notes in the policy's config whether it learns from prompts in plain text alone: `generate` asks likewise.

    Data that are no `TrainingData` say nothing about their prompts, and the config stays as it is.
    """
    if not isinstance(data, TrainingData):
        return
    plain = data.text_prompts if tokenizer.chat_template else 0
    if plain:
        say(f"prompts: {plain} are plain text, without the chat template, which messages get (import --chat)")
    if plain and plain == data.encoded:
        policy.config.text_prompts = True
    elif hasattr(policy.config, "text_prompts"):  # of the policy that this one starts from
        del policy.config.text_prompts
