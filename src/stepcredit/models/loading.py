"""Policy, tokenizer and value model from a folder or hub name; and small models from nothing.

A value model is a plain `AutoModelForTokenClassification` with one label: the policy's transformer under a
bias-free linear head. It starts from the policy's weights with a head of zeros, so V is 0 everywhere at
first, and it is kept in float32: in bf16, values near 1 move in steps of 0.4%.
"""

from __future__ import annotations

import copy
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
from stepcredit.models.chat_templates import with_chat_template
from stepcredit.models.gguf import gguf_policy, gguf_tokenizer, is_gguf

ADAPTER_CONFIG = "adapter_config.json"


def load_tokenizer(
    name_or_path: str,
    *,
    trust_remote_code: bool = False,
    chat_template: str | None = None,
    merge_system_message: bool = False,
) -> Any:
    """The tokenizer of a model; one without a pad token pads with its end token.

    Args:
        name_or_path: a folder, a `.gguf` file, or a name on the hub.
        trust_remote_code: whether to run code that comes with it.
        chat_template, merge_system_message: see `chat_templates.with_chat_template`.

    Raises:
        InputError: nothing there, no end-of-sequence token, or no such chat template.
    """
    tokenizer = gguf_tokenizer(name_or_path) if is_gguf(name_or_path) else _tokenizer(name_or_path, trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-sequence token", name_or_path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return with_chat_template(tokenizer, chat_template, merge_system_message)


def load_policy(name_or_path: str, *, trust_remote_code: bool = False, **model_init_kwargs: Any) -> Any:
    """A causal language model, from safetensors or from a `.gguf` file, whose weights are dequantised.

    Args:
        name_or_path: a folder, a `.gguf` file, or a name on the hub.
        model_init_kwargs: passed to `from_pretrained`, as TRL passes them (dtype, attn_implementation, …).

    Raises:
        InputError: nothing there that loads.
    """
    if is_gguf(name_or_path):
        return gguf_policy(name_or_path, model_init_kwargs)
    return _load(AutoModelForCausalLM, name_or_path, trust_remote_code, model_init_kwargs)


def load_value_model(name_or_path: str, *, trust_remote_code: bool = False, **model_init_kwargs: Any) -> Any:
    """A saved value model, in float32 unless another `dtype` is asked for.

    Raises:
        InputError: nothing there that loads, or it has more than one label.
    """
    given = {"dtype": torch.float32, **model_init_kwargs}
    model = _load(AutoModelForTokenClassification, name_or_path, trust_remote_code, given)
    if model.config.num_labels != 1:
        raise InputError(f"a value model has one label, this one has {model.config.num_labels}", name_or_path)
    return model


def load_reward_model(name_or_path: str, *, trust_remote_code: bool = False, **model_init_kwargs: Any) -> Any:
    """An outcome or process reward model: a sequence classifier with one label.

    Raises:
        InputError: nothing there that loads, or it has more than one label.
    """
    model = _load(AutoModelForSequenceClassification, name_or_path, trust_remote_code, model_init_kwargs)
    if model.config.num_labels != 1:
        raise InputError(f"a reward model has one label, this one has {model.config.num_labels}", name_or_path)
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
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load a tokenizer: {_first_line(error)}", name_or_path) from error


def _load(auto_class: Any, name_or_path: str, trust_remote_code: bool, given: dict[str, Any]) -> Any:
    path = Path(name_or_path)
    if is_gguf(name_or_path):
        raise InputError("a .gguf file can be a policy only; give the folder of a saved model", name_or_path)
    if path.is_dir() and not (path / "config.json").exists() and not (path / ADAPTER_CONFIG).exists():
        hint = " (its policy/ folder has one)" if (path / "policy" / "config.json").exists() else ""
        raise InputError(f"no config.json here{hint}; give the folder of a saved model", name_or_path)
    try:
        return auto_class.from_pretrained(
            name_or_path, trust_remote_code=trust_remote_code, use_safetensors=True, **given
        )
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load a model: {_first_line(error)}", name_or_path) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
