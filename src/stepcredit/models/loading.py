"""Loading of policies, tokenizers, value models and reward models from a folder or the hub.

A value model is a plain `AutoModelForTokenClassification` with one label, or one for each bin of V (`value_bins`): the
policy's transformer with a bias-free linear head. It is initialised with the policy's weights and a head of zeros, so
that V is 0, or the middle of its bins, at first, and kept in float32: in bf16, values near 1 are 0.4% apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.constants import HF_HUB_OFFLINE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from stepcredit.episodes.turns import TurnEnds, turn_ends
from stepcredit.errors import InputError
from stepcredit.models.adapters import base_name, is_adapter, load_with_adapter
from stepcredit.models.chat_templates import with_chat_template
from stepcredit.models.checks import (
    MODEL_TYPES,
    Role,
    check_loaded,
    check_reference,
    check_same_tokens,
    check_vocabulary,
)
from stepcredit.models.folders import (
    TOKENIZER_FILES,
    check_config_folder,
    check_model_folder,
    check_not_a_path,
    check_tokenizer_folder,
    models_like,
)
from stepcredit.models.gguf import gguf_policy, gguf_tokenizer, is_gguf
from stepcredit.models.value_bins import set_value_bins, value_bins

_PATH_ARGUMENTS = {"subfolder", "variant"}
"""Arguments of `from_pretrained` that change the paths of the files."""


def load_tokenizer(
    name_or_path: str,
    *,
    trust_remote_code: bool = False,
    chat_template: str | None = None,
    merge_system_message: bool = False,
) -> Any:
    """Loads the tokenizer of a model; the end-of-sequence token is the default pad token.

    Args:
        name_or_path: a folder, a `.gguf` file, or a name on the hub; for an adapter without a tokenizer, its base
            model's tokenizer is loaded.
        trust_remote_code: whether to run code that comes with the tokenizer.
        chat_template, merge_system_message: see `chat_templates.with_chat_template`.

    Raises:
        InputError: the tokenizer is missing, damaged or without an end-of-sequence token, or the chat template is
            missing.
    """
    if is_adapter(name_or_path) and not _has_tokenizer(name_or_path):
        load = partial(load_tokenizer, trust_remote_code=trust_remote_code, chat_template=chat_template)
        return _load_base(name_or_path, partial(load, merge_system_message=merge_system_message))
    tokenizer = gguf_tokenizer(name_or_path) if is_gguf(name_or_path) else _tokenizer(name_or_path, trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-sequence token", name_or_path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return with_chat_template(tokenizer, chat_template, merge_system_message)


def load_policy(
    name_or_path: str, *, trust_remote_code: bool = False, tokenizer: Any | None = None, **model_init_kwargs: Any
) -> Any:
    """Loads a causal language model from safetensors, from a `.gguf` file, or from an adapter's folder.

    The weights of a `.gguf` file are dequantised; an adapter is merged into its base model.

    Args:
        name_or_path: a folder, a `.gguf` file, or a name on the hub.
        trust_remote_code: whether to run code that comes with the model.
        tokenizer: checked against the model's vocabulary; None: no check.
        model_init_kwargs: passed to `from_pretrained`, as in TRL (dtype, attn_implementation, …).

    Raises:
        InputError: the model cannot be loaded, is incomplete, is not a causal language model, or does not fit the
            tokenizer (see `checks`).
    """
    if is_gguf(name_or_path):
        model = gguf_policy(name_or_path, model_init_kwargs)
    elif is_adapter(name_or_path):
        load = partial(load_policy, trust_remote_code=trust_remote_code, **model_init_kwargs)
        model = load_with_adapter(_load_base(name_or_path, load), name_or_path)
        model.name_or_path = model.config._name_or_path = name_or_path  # for loading the tokenizer
    else:
        model = _load(AutoModelForCausalLM, name_or_path, "policy", trust_remote_code, model_init_kwargs)
    if tokenizer is not None:
        check_vocabulary(model, tokenizer, name_or_path)
    return model


def load_config(name_or_path: str, *, trust_remote_code: bool = False) -> Any:
    """Loads the config of a model, whose weights need not be there; for an adapter, that of its base model.

    Raises:
        InputError: the config is missing, damaged or of an unknown model type.
    """
    if is_gguf(name_or_path):
        raise InputError("a .gguf file has no config.json; give a folder or a name on the hub", name_or_path)
    if is_adapter(name_or_path):
        return _load_base(name_or_path, partial(load_config, trust_remote_code=trust_remote_code))
    if not Path(name_or_path).exists():
        check_not_a_path(name_or_path)
    else:
        check_config_folder(Path(name_or_path), trust_remote_code)
    try:
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except Exception as error:  # an inconsistent config may raise any error
        raise _not_loaded("its config", name_or_path, error) from error


def load_reference(
    name_or_path: str, policy: Any, tokenizer: Any, *, trust_remote_code: bool = False, **model_init_kwargs: Any
) -> Any:
    """Loads the reference of a policy, which must have the same vocabulary.

    Raises:
        InputError: as in `load_policy`, or the vocabularies differ.
    """
    model = load_policy(name_or_path, trust_remote_code=trust_remote_code, **model_init_kwargs)
    _check_own_tokens(name_or_path, tokenizer, trust_remote_code)
    check_reference(model, policy, name_or_path)
    return model


def load_value_model(
    name_or_path: str, *, trust_remote_code: bool = False, tokenizer: Any | None = None, **model_init_kwargs: Any
) -> Any:
    """Loads a saved value model, by default in float32.

    Args:
        name_or_path: a folder or a name on the hub.
        trust_remote_code: whether to run code that comes with the model.
        tokenizer: the policy's tokenizer, checked against the model's vocabulary and its tokenizer, if the folder has
            one; None: no check.
        model_init_kwargs: passed to `from_pretrained`.

    Raises:
        InputError: the model cannot be loaded, is incomplete, has no head, or more than one label and no bins, or
            has another vocabulary.
    """
    model_init_kwargs = {"dtype": torch.float32, **model_init_kwargs}
    model = _load(AutoModelForTokenClassification, name_or_path, "value model", trust_remote_code, model_init_kwargs)
    _check_vocabularies(model, name_or_path, tokenizer, trust_remote_code)
    set_value_bins(model.config, value_bins(model.config))
    return model


def load_reward_model(
    name_or_path: str, *, trust_remote_code: bool = False, tokenizer: Any | None = None, **model_init_kwargs: Any
) -> Any:
    """Loads an outcome or process reward model, a sequence classifier with one label.

    Arguments and errors are as in `load_value_model`.
    """
    model = _load(AutoModelForSequenceClassification, name_or_path, "reward model", trust_remote_code,
                  model_init_kwargs)  # fmt: skip
    _check_vocabularies(model, name_or_path, tokenizer, trust_remote_code)
    return model


def value_model_from(policy: Any, bins: Sequence[float] | None = None) -> Any:
    """Creates a value model with a float32 copy of the policy's transformer, without adapters, and a head of zeros.

    Args:
        policy: a causal language model.
        bins: the bins of V; None: the model gives V.

    Raises:
        InputError: transformers has no token-classification model for this architecture.
    """
    config = value_config(policy, bins)
    model = AutoModelForTokenClassification.from_config(config)
    weights = policy.base_model.state_dict().items()
    model.base_model.load_state_dict({n.replace(".base_layer.", "."): w for n, w in weights if ".lora_" not in n})
    head = model.get_submodule("score" if hasattr(model, "score") else "classifier")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    return model.to(config.dtype)


def value_config(policy: Any, bins: Sequence[float] | None = None) -> Any:
    """Returns the config of a value model with a policy's transformer, and its bins if it has some.

    Raises:
        InputError: transformers has no token-classification model for this architecture.
    """
    config = copy.deepcopy(policy.config)
    set_value_bins(config, bins)
    config.token_classification_bias = False
    config.classifier_dropout = 0.0
    config.dtype = torch.promote_types(policy.dtype, torch.float32)
    config.architectures = None
    if type(config) not in AutoModelForTokenClassification._model_mapping:
        raise InputError(
            f"transformers {transformers.__version__} has no token-classification model for "
            f"{config.model_type!r}; choose a policy with one, such as a Llama, Qwen or Mistral model",
            "value_model",
        )
    return config


def stopping(policy: Any, tokenizer: Any) -> TurnEnds:
    """Returns the end-of-turn tokens of a policy and sets them in its generation config, for later inference."""
    config = getattr(policy, "generation_config", None)
    ends = turn_ends(tokenizer, config)
    if config is not None and ends.of_chat != ends.of_text:
        config.eos_token_id = sorted(ends.stop)
    return ends


def placed(model: Any) -> Any:
    """Moves a model to the GPU if there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def frozen_copy(policy: Any) -> Any:
    """Returns a frozen copy of the policy, for use as the reference."""
    reference = copy.deepcopy(policy).eval()
    return reference.requires_grad_(False)


def disable_dropout(model: torch.nn.Module) -> None:
    """Sets all dropout rates of a model to zero, so that π equals π_ref at the start of training."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _tokenizer(name_or_path: str, trust_remote_code: bool) -> Any:
    if Path(name_or_path).is_dir():
        check_tokenizer_folder(Path(name_or_path))
    else:
        check_not_a_path(name_or_path)
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged tokenizer may raise any error
        raise _not_loaded("a tokenizer", name_or_path, error) from error


def _load(
    auto_class: Any, name_or_path: str, role: Role, trust_remote_code: bool, model_init_kwargs: dict[str, Any]
) -> Any:
    """Loads a plain model by `from_pretrained`, with checks of its folder before and of its weights after."""
    if is_gguf(name_or_path):
        raise InputError("a .gguf file can only be a policy; give the folder of a saved model", name_or_path)
    if is_adapter(name_or_path):
        raise InputError(f"is only an adapter, not a {role}; give a folder with the whole model", name_or_path)
    if not Path(name_or_path).exists():
        check_not_a_path(name_or_path)
    elif not model_init_kwargs.keys() & _PATH_ARGUMENTS:
        check_model_folder(Path(name_or_path), trust_remote_code)
    kwargs = {**model_init_kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, info = auto_class.from_pretrained(
            name_or_path, trust_remote_code=trust_remote_code, use_safetensors=True, **kwargs
        )
    except Exception as error:  # an inconsistent config may raise any error
        text = _one_line(error)
        if text.startswith("Unrecognized configuration class"):
            text = f"transformers {transformers.__version__} has no class for {MODEL_TYPES[role]} of this model_type"
        settings = f" (model_init_kwargs {model_init_kwargs})" if model_init_kwargs else ""
        raise _not_loaded(f"a {role}", name_or_path, error, f"{text}{settings}") from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise InputError("has a model and an adapter (adapter_config.json); give a folder with only the whole model or "
                         "only the adapter", name_or_path)  # fmt: skip
    check_loaded(model, info, name_or_path, role)
    return model


def _load_base(folder: str, load: Callable[[str], Any]) -> Any:
    """Calls `load` on the base model of an adapter."""
    base = base_name(folder)
    if is_adapter(base):
        raise InputError(f"its base model {base} is itself an adapter; merge that first", folder)
    try:
        return load(base)
    except InputError as error:
        raise InputError(f"cannot load the base model of this adapter: {error}", folder) from error


def _check_vocabularies(model: Any, name_or_path: str, tokenizer: Any | None, trust_remote_code: bool) -> None:
    """Checks that a model's vocabulary, and its tokenizer if there is one, fit the policy's tokenizer."""
    if tokenizer is not None:
        check_vocabulary(model, tokenizer, name_or_path)
        _check_own_tokens(name_or_path, tokenizer, trust_remote_code)


def _check_own_tokens(name_or_path: str, tokenizer: Any, trust_remote_code: bool) -> None:
    """Checks that the tokenizer in a folder, if there is one, agrees with the policy's."""
    if _has_tokenizer(name_or_path):
        check_same_tokens(tokenizer, _tokenizer(name_or_path, trust_remote_code), name_or_path)


def _has_tokenizer(folder: str) -> bool:
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)


def _not_loaded(what: str, name: str, error: Exception, reason: str = "") -> InputError:
    """Returns the error of what transformers does not load; where there is no folder of that name, it looked for it on
    the hub."""
    reason = reason or _one_line(error)
    if Path(name).exists():
        return InputError(f"cannot load {what}: {reason}", name)
    offline = " (HF_HUB_OFFLINE is set)" if HF_HUB_OFFLINE else ""
    return InputError(
        f"no such folder{models_like(name)}; nor can {what} be loaded from the hub{offline}: {reason}", name
    )


def _one_line(error: Exception) -> str:
    """Returns the message of a transformers error as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return first if isinstance(error, OSError | ValueError) and first else f"{type(error).__name__}: {first}"
