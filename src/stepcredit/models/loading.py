"""Policy, tokenizer and value model from a folder or hub name; and small models from nothing.

A value model is a plain `AutoModelForTokenClassification` with one label: the policy's transformer under a
bias-free linear head. It starts from the policy's weights with a head of zeros, so V is 0 everywhere at
first, and it is kept in float32: in bf16, values near 1 move in steps of 0.4%.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from stepcredit.episodes.turns import TurnEnds, turn_ends
from stepcredit.errors import InputError
from stepcredit.models.adapters import base_name, is_adapter, load_with_adapter
from stepcredit.models.chat_templates import with_chat_template
from stepcredit.models.checks import WANTED, Role, check_loaded, check_reference, check_same_tokens, check_vocabulary
from stepcredit.models.folders import TOKENIZER_FILES, check_model_folder, check_tokenizer_folder
from stepcredit.models.gguf import gguf_policy, gguf_tokenizer, is_gguf

_ELSEWHERE = {"subfolder", "variant"}
"""Arguments of `from_pretrained` by which the files are not where a folder's are."""

REGRESSION = "regression"
"""The `problem_type` of a value model: servers return V as it is, without a sigmoid."""


def load_tokenizer(
    name_or_path: str,
    *,
    trust_remote_code: bool = False,
    chat_template: str | None = None,
    merge_system_message: bool = False,
) -> Any:
    """The tokenizer of a model; one without a pad token pads with its end token.

    Args:
        name_or_path: a folder (of an adapter alone: that of its base, where it has none), a `.gguf` file, or a name
            on the hub.
        trust_remote_code: whether to run code that comes with it.
        chat_template, merge_system_message: see `chat_templates.with_chat_template`.

    Raises:
        InputError: nothing there, a damaged tokenizer, no end-of-sequence token, or no such chat template.
    """
    if is_adapter(name_or_path) and not _has_tokenizer(name_or_path):
        load = partial(load_tokenizer, trust_remote_code=trust_remote_code, chat_template=chat_template)
        return _of_base(name_or_path, partial(load, merge_system_message=merge_system_message))
    tokenizer = gguf_tokenizer(name_or_path) if is_gguf(name_or_path) else _tokenizer(name_or_path, trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-sequence token", name_or_path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return with_chat_template(tokenizer, chat_template, merge_system_message)


def load_policy(
    name_or_path: str, *, trust_remote_code: bool = False, tokenizer: Any | None = None, **model_init_kwargs: Any
) -> Any:
    """A causal language model, whole and plain.

    From safetensors; from a `.gguf` file, whose weights are dequantised; or from the folder of an adapter, which is
    merged into the model that it was trained on.

    Args:
        name_or_path: a folder, a `.gguf` file, or a name on the hub.
        trust_remote_code: whether to run code that comes with it.
        tokenizer: whose every id the model must have a row for; None: not looked at.
        model_init_kwargs: passed to `from_pretrained`, as TRL passes them (dtype, attn_implementation, …).

    Raises:
        InputError: nothing there that loads, or what loads is not whole, no policy, or not of that tokenizer
            (see `checks`).
    """
    if is_gguf(name_or_path):
        model = gguf_policy(name_or_path, model_init_kwargs)
    elif is_adapter(name_or_path):
        load = partial(load_policy, trust_remote_code=trust_remote_code, **model_init_kwargs)
        model = load_with_adapter(_of_base(name_or_path, load), name_or_path)
        model.name_or_path = model.config._name_or_path = name_or_path  # where its tokenizer is
    else:
        model = _load(AutoModelForCausalLM, name_or_path, "policy", trust_remote_code, model_init_kwargs)
    if tokenizer is not None:
        check_vocabulary(model, tokenizer, name_or_path)
    return model


def load_reference(
    name_or_path: str, policy: Any, tokenizer: Any, *, trust_remote_code: bool = False, **model_init_kwargs: Any
) -> Any:
    """A policy that another is held to: of the same vocabulary.

    Raises:
        InputError: as `load_policy`, or the vocabulary is another.
    """
    model = load_policy(name_or_path, trust_remote_code=trust_remote_code, **model_init_kwargs)
    _check_own_tokens(name_or_path, tokenizer, trust_remote_code)
    check_reference(model, policy, name_or_path)
    return model


def load_value_model(
    name_or_path: str, *, trust_remote_code: bool = False, tokenizer: Any | None = None, **model_init_kwargs: Any
) -> Any:
    """A saved value model, in float32 unless another `dtype` is asked for.

    Args:
        name_or_path: a folder or a name on the hub.
        trust_remote_code: whether to run code that comes with it.
        tokenizer: the policy's, whose ids the model is to read; a tokenizer that the folder holds is compared with
            it. None: not looked at.
        model_init_kwargs: passed to `from_pretrained`.

    Raises:
        InputError: nothing there that loads, or what loads is not whole, has no head or more than one label, or is
            of another vocabulary.
    """
    model_init_kwargs = {"dtype": torch.float32, **model_init_kwargs}
    model = _load(AutoModelForTokenClassification, name_or_path, "value model", trust_remote_code, model_init_kwargs)
    _check_reads(model, name_or_path, tokenizer, trust_remote_code)
    model.config.problem_type = REGRESSION
    return model


def load_reward_model(
    name_or_path: str, *, trust_remote_code: bool = False, tokenizer: Any | None = None, **model_init_kwargs: Any
) -> Any:
    """An outcome or process reward model: a sequence classifier with one label (arguments as `load_value_model`).

    Raises:
        InputError: as `load_value_model`.
    """
    model = _load(AutoModelForSequenceClassification, name_or_path, "reward model", trust_remote_code,
                  model_init_kwargs)  # fmt: skip
    _check_reads(model, name_or_path, tokenizer, trust_remote_code)
    return model


def value_model_from(policy: Any) -> Any:
    """A value model with the policy's transformer, copied in float32, and a head of zeros.

    Raises:
        InputError: transformers has no token-classification model for this architecture.
    """
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    config.token_classification_bias = False
    config.classifier_dropout = 0.0
    config.problem_type = REGRESSION
    config.dtype = torch.promote_types(policy.dtype, torch.float32)
    config.architectures = None
    try:
        model = AutoModelForTokenClassification.from_config(config)
    except ValueError as error:
        raise InputError(
            f"transformers {transformers.__version__} has no token-classification model for "
            f"{config.model_type!r}, so it cannot carry a value head; take a Llama-, Qwen- or Mistral-like one",
            "value_model",
        ) from error
    model.base_model.load_state_dict(policy.base_model.state_dict())
    head = model.get_submodule("score" if hasattr(model, "score") else "classifier")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    return model.to(config.dtype)


def stopping(policy: Any, tokenizer: Any) -> TurnEnds:
    """What ends a turn of the policy, told to its generation config too: whatever serves it later stops there."""
    config = getattr(policy, "generation_config", None)
    ends = turn_ends(tokenizer, config)
    if config is not None and ends.of_chat != ends.of_text:
        config.eos_token_id = sorted(ends.stop)
    return ends


def placed(model: Any) -> Any:
    """A model that is to sample or score, on the GPU where there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def frozen_copy(policy: Any) -> Any:
    """The reference: a copy of the policy that never trains."""
    reference = copy.deepcopy(policy).eval()
    return reference.requires_grad_(False)


def disable_dropout(model: torch.nn.Module) -> None:
    """Set every dropout of a model to zero, so that π and π_ref start equal in training mode too."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _tokenizer(name_or_path: str, trust_remote_code: bool) -> Any:
    if Path(name_or_path).is_dir():
        check_tokenizer_folder(Path(name_or_path))
    else:
        _refuse_path(name_or_path)
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except Exception as error:  # the readers of a damaged tokenizer raise anything
        raise InputError(f"cannot load a tokenizer: {_told(error)}", name_or_path) from error


def _load(
    auto_class: Any, name_or_path: str, role: Role, trust_remote_code: bool, model_init_kwargs: dict[str, Any]
) -> Any:
    """A plain model by `from_pretrained`, looked at before (its folder) and after (`check_loaded`)."""
    if is_gguf(name_or_path):
        raise InputError("a .gguf file can be a policy only; give the folder of a saved model", name_or_path)
    if is_adapter(name_or_path):
        raise InputError(f"is an adapter alone, no {role}; give a folder with the whole model", name_or_path)
    if not Path(name_or_path).exists():
        _refuse_path(name_or_path)
    elif not model_init_kwargs.keys() & _ELSEWHERE:
        check_model_folder(Path(name_or_path), trust_remote_code)
    kwargs = {**model_init_kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, info = auto_class.from_pretrained(
            name_or_path, trust_remote_code=trust_remote_code, use_safetensors=True, **kwargs
        )
    except Exception as error:  # a config that does not hold together raises anything
        told = _told(error)
        if told.startswith("Unrecognized configuration class"):
            told = f"transformers {transformers.__version__} does not make {WANTED[role]} of this model_type"
        raise InputError(f"cannot load a {role}: {told}", name_or_path) from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise InputError("an adapter was loaded with it (adapter_config.json); give a folder with the whole model, or "
                         "with the adapter alone", name_or_path)  # fmt: skip
    check_loaded(model, info, name_or_path, role)
    return model


def _of_base(folder: str, load: Callable[[str], Any]) -> Any:
    """What `load` makes of the model that an adapter was trained on."""
    base = base_name(folder)
    if is_adapter(base):
        raise InputError(f"is an adapter of another adapter, {base}; merge that one first", folder)
    try:
        return load(base)
    except InputError as error:
        raise InputError(f"the model that this adapter belongs to does not load: {error}", folder) from error


def _check_reads(model: Any, name_or_path: str, tokenizer: Any | None, trust_remote_code: bool) -> None:
    """Whether a model can read the ids that a policy's tokenizer writes."""
    if tokenizer is not None:
        check_vocabulary(model, tokenizer, name_or_path)
        _check_own_tokens(name_or_path, tokenizer, trust_remote_code)


def _check_own_tokens(name_or_path: str, tokenizer: Any, trust_remote_code: bool) -> None:
    """Whether the tokenizer in a folder, if one is there, names tokens as the policy's does."""
    if _has_tokenizer(name_or_path):
        check_same_tokens(tokenizer, _tokenizer(name_or_path, trust_remote_code), name_or_path)


def _has_tokenizer(folder: str) -> bool:
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)


def _refuse_path(name: str) -> None:
    """A path with a folder in it, or from the root or here, is no name on the hub (owner/name)."""
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError("no such folder", name)


def _told(error: Exception) -> str:
    """An error of transformers in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return first if isinstance(error, OSError | ValueError) and first else f"{type(error).__name__}: {first}"
