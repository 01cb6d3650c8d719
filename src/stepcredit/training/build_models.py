"""Builds the models of a training run from names, folders or models in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stepcredit.errors import InputError, quoted
from stepcredit.models.actor_critic import ActorCritic
from stepcredit.models.adapters import is_peft, with_adapter
from stepcredit.models.checks import check_reference, check_vocabulary
from stepcredit.models.loading import (
    REGRESSION,
    disable_dropout,
    frozen_copy,
    load_policy,
    load_reference,
    load_tokenizer,
    load_value_model,
    value_model_from,
)
from stepcredit.models.states import ValueStates
from stepcredit.training.configs import OfflineConfig
from stepcredit.training.methods import method_of


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

    Arguments are as in `OfflineTrainer`. Models given by name are loaded in float32, so that small optimizer updates
    are not rounded away; `bf16` computes under autocast. `model_init_kwargs` may set another dtype for policy and
    reference. A value model in memory is converted to float32 too.

    Raises:
        InputError: a model is incomplete or has another vocabulary, or an adapter does not fit.
    """
    method = method_of(args)
    init = {"dtype": torch.float32, **_init_kwargs(args)}
    policy = load_policy(model, **init) if isinstance(model, str) else model
    check_vocabulary(policy, tokenizer, model if isinstance(model, str) else "model")
    value = None
    if method.needs_value:
        if value_model is None:
            value = value_model_from(policy.get_base_model() if is_peft(policy) else policy)
        elif isinstance(value_model, str):
            value = load_value_model(value_model, tokenizer=tokenizer, **{**init, "dtype": torch.float32})
        else:
            value = value_model
        check_vocabulary(value, tokenizer, "value_model")
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        if value_peft_config is not None and not is_peft(value):
            value = with_adapter(value, value_peft_config, keep=("score",))
    if peft_config is not None and not is_peft(policy):
        policy = with_adapter(policy, peft_config)
    reference = None
    if method.needs_reference and not (ref_model is None and is_peft(policy)):
        if isinstance(ref_model, str):
            ref_model = load_reference(ref_model, policy, tokenizer, **init)
        elif ref_model is not None:
            check_reference(ref_model, policy, "ref_model")
        reference = frozen_copy(policy) if ref_model is None else ref_model.eval().requires_grad_(False)
    if args.disable_dropout:
        for part in (policy, value, reference):
            if part is not None:
                disable_dropout(part)
    if value is not None:  # a search must know at which states the value model is trained
        rule = args.step_rule
        ValueStates(args.value_segments, rule.delimiters, rule.max_tokens).describe(value.config)
        value.config.problem_type = REGRESSION
    return ActorCritic(policy, value, reference)


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
