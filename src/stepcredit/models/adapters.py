"""PEFT adapters: adding, loading, saving and merging. Only this module imports peft."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stepcredit.errors import InputError
from stepcredit.models.checks import check_finite, listed
from stepcredit.models.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, WEIGHTS, check_safetensors, read_object

_logger = logging.getLogger(__name__)


def is_peft(model: Any) -> bool:
    """Whether a model is a PEFT model; works without peft installed."""
    return hasattr(model, "peft_config") and hasattr(model, "disable_adapter")


def is_adapter(name_or_path: str) -> bool:
    """Whether this is a folder with an adapter and no whole model."""
    folder = Path(name_or_path)
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / name).exists() for name in (WEIGHTS, INDEX))


def base_name(folder: str) -> str:
    """Returns the folder or name of the base model of an adapter.

    Raises:
        InputError: the config is damaged or has no base model.
    """
    name = read_object(Path(folder) / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InputError(f"{ADAPTER_CONFIG} has no base_model_name_or_path; add the name of the base model", folder)
    return name


def lora_config(rank: int, alpha: int, targets: Sequence[str], task_type: str) -> Any:
    """Returns a LoRA config.

    Args:
        rank, alpha: r and α.
        targets: names of the modules that it adapts; "all-linear" for all linear layers but the head.
        task_type: CAUSAL_LM or TOKEN_CLS.

    Raises:
        InputError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise InputError("LoRA needs peft: pip install 'stepcredit[peft]'", "use_peft") from error
    modules: Any = targets[0] if list(targets) == ["all-linear"] else list(targets)
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, task_type=task_type)


def with_adapter(model: Any, peft_config: Any, keep: tuple[str, ...] = ()) -> Any:
    """Adds a new adapter to a model.

    If embedding and head are tied (`tie_word_embeddings`) and LoRA adapts one of them, the other is not adapted, so
    `merged` unties them.

    Args:
        model: a plain model.
        peft_config: the PEFT config of the adapter.
        keep: names of modules that are trained and saved in full.

    Raises:
        InputError: the model lacks a module, a module cannot be adapted, or `ensure_weight_tying` is set with an
            adapted embedding, which peft cannot merge.
    """
    from peft import get_peft_model

    _check_targets(model, peft_config)
    if keep:
        peft_config.modules_to_save = sorted({*(peft_config.modules_to_save or []), *keep})
    with _suppressed_tying_warnings():
        try:
            adapted = get_peft_model(model, peft_config)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise InputError(f"peft reports: {' '.join(str(error).split())}", "lora_target_modules") from error
    if _adapts_tied_weights(adapted.get_base_model()):
        if getattr(peft_config, "ensure_weight_tying", False):
            raise InputError("an adapter on tied embedding and head cannot be merged; "
                             "leave ensure_weight_tying out", "peft_config")  # fmt: skip
        _logger.warning("the model ties embedding and head, and the adapter changes only one of them: "
                        "the saved policy/ is untied (tie_word_embeddings: false)")  # fmt: skip
    return adapted


def share_frozen_weights(model: Any, source: Any) -> None:
    """Replaces the transformer's weights of a model by those of another with equal weights, so that both are one.

    For two adapters on one trunk: the weights must stay frozen in both. Weights without data count as equal.
    """
    theirs = {name.replace(".base_layer.", "."): weight for name, weight in _transformer(source).named_parameters()}
    body = _transformer(model)
    for name, weight in list(body.named_parameters()):
        shared = theirs.get(name)
        if shared is not None and shared.dtype == weight.dtype and (weight.is_meta or torch.equal(shared, weight)):
            owner, _, attribute = name.rpartition(".")
            setattr(body.get_submodule(owner), attribute, shared)


def _transformer(model: Any) -> Any:
    return (model.get_base_model() if is_peft(model) else model).base_model


def load_with_adapter(base: Any, folder: str) -> Any:
    """Merges the adapter in a folder into its base model, in place, and returns the plain model.

    Raises:
        InputError: peft is not installed, or the adapter is damaged, incomplete, or of another model.
    """
    try:
        from peft import PeftConfig, get_peft_model
    except ImportError as error:
        raise InputError("an adapter needs peft: pip install 'stepcredit[peft]'", folder) from error
    with _suppressed_tying_warnings():
        try:
            model = get_peft_model(base, PeftConfig.from_pretrained(folder))
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            text = " ".join(str(error).split())
            raise InputError(f"the adapter does not fit {base.config._name_or_path}: {text}", folder) from error
        load_adapter(model, Path(folder))
    check_finite(model, folder)
    return _merged_in_place(model)


def load_adapter(model: Any, folder: Path) -> None:
    """Loads the weights of an adapter from a folder into a PEFT model.

    Raises:
        InputError: weights are damaged, pickled, missing, or of another adapter.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    if not (folder / ADAPTER_CONFIG).exists():
        raise InputError("has no adapter, but the run trains one", str(folder))
    check_safetensors(folder / ADAPTER_WEIGHTS)
    saved = load_file(folder / ADAPTER_WEIGHTS)
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    if missing := set(expected) - set(saved):
        raise InputError(f"weights of the adapter are missing: {listed(missing)}", str(folder))
    try:
        result = set_peft_model_state_dict(model, saved)
    except RuntimeError as error:
        text = str(error).splitlines()[-1].strip()
        raise InputError(f"the adapter does not fit the model: {text}", str(folder)) from error
    if result.unexpected_keys:
        raise InputError(f"unexpected weights: {listed(result.unexpected_keys)}", str(folder))


def save_adapter(model: Any, folder: Path) -> None:
    """Saves the adapter of a PEFT model in peft's format."""
    with _suppressed_tying_warnings():
        model.save_pretrained(folder, safe_serialization=True)


def merged(model: Any) -> Any:
    """Returns a plain copy of a PEFT model with its adapter merged; computes the same function, tied weights or not."""
    return _merged_in_place(copy.deepcopy(model))


def _merged_in_place(model: Any) -> Any:
    base = model.get_base_model()
    if _adapts_tied_weights(base):
        _untie(base)
    with _suppressed_tying_warnings():
        plain = model.merge_and_unload()
    plain._hf_peft_config_loaded = False
    return plain


def _check_targets(model: nn.Module, peft_config: Any) -> None:
    """Checks that the model has every target module; peft only checks that it has one of them."""
    targets = getattr(peft_config, "target_modules", None)
    if targets is None or isinstance(targets, str):
        return
    names = [name for name, _ in model.named_modules()]
    for target in sorted(targets):
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = sorted({name.rsplit(".", 1)[-1] for name, part in model.named_modules() if _is_matrix(part)})
            raise InputError(f"{type(model).__name__} has no module {target!r}; choose from {', '.join(known)}, "
                             "or all-linear", "lora_target_modules")  # fmt: skip


def _is_matrix(part: nn.Module) -> bool:
    return not list(part.children()) and getattr(getattr(part, "weight", None), "ndim", 0) == 2


def _embedding_and_head(base: Any) -> list[tuple[Any, bool]]:
    """Returns embedding and head, each with whether it is adapted; empty if the model has no language-model head."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (base.get_input_embeddings(), base.get_output_embeddings())
    if None in layers:
        return []
    adapted = [isinstance(layer, BaseTunerLayer) for layer in layers]
    return [(layer.get_base_layer() if a else layer, a) for layer, a in zip(layers, adapted, strict=True)]


def _adapts_tied_weights(base: Any) -> bool:
    layers = _embedding_and_head(base)
    return bool(layers) and layers[0][0].weight is layers[1][0].weight and any(adapted for _, adapted in layers)


def _untie(base: Any) -> None:
    """Copies the weights of the head, so that merging changes only one of the two layers."""
    head = _embedding_and_head(base)[1][0]
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (base.config, base.config.get_text_config()):
        config.tie_word_embeddings = False


@contextmanager
def _suppressed_tying_warnings() -> Iterator[None]:
    """Suppresses peft's warnings about tied weights, which `merged` handles, and about saving the embedding."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tie_word_embeddings.*", UserWarning)
        warnings.filterwarnings("ignore", ".*no longer tied.*", UserWarning)
        warnings.filterwarnings("ignore", ".*save_embedding_layers.*", UserWarning)
        yield
