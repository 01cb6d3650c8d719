"""PEFT adapters: put on a model, read from a folder, merged into a plain model. peft is imported here alone."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from stepcredit.errors import InputError
from stepcredit.models.checks import check_finite, listed
from stepcredit.models.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, WEIGHTS, check_safetensors, read_object

_logger = logging.getLogger(__name__)


def is_peft(model: Any) -> bool:
    """Whether a model is a PEFT wrapper; needs no peft to be installed."""
    return hasattr(model, "peft_config") and hasattr(model, "disable_adapter")


def is_adapter(name_or_path: str) -> bool:
    """Whether this names a folder with an adapter and no whole model."""
    folder = Path(name_or_path)
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / name).exists() for name in (WEIGHTS, INDEX))


def base_name(folder: str) -> str:
    """What an adapter was trained on: the folder or name that its config names.

    Raises:
        InputError: a damaged config, or one that names no model.
    """
    name = read_object(Path(folder) / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InputError(f"{ADAPTER_CONFIG} names no base_model_name_or_path, which the adapter belongs to", folder)
    return name


def with_adapter(model: Any, peft_config: Any, keep: tuple[str, ...] = ()) -> Any:
    """A model under a new adapter.

    Where the head is the embedding (`tie_word_embeddings`) and LoRA adapts one of them, the other stays as it is in
    training; so `merged` gives the plain model a head of its own.

    Args:
        model: a plain model.
        peft_config: of the adapter.
        keep: names of modules that are trained and saved in full.

    Raises:
        InputError: modules that the model lacks or that cannot be adapted, or `ensure_weight_tying` with an adapted
            embedding, which peft cannot merge.
    """
    from peft import get_peft_model

    _check_targets(model, peft_config)
    if keep:
        peft_config.modules_to_save = sorted({*(peft_config.modules_to_save or []), *keep})
    with _quiet_about_ties():
        try:
            adapted = get_peft_model(model, peft_config)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise InputError(f"peft refuses: {' '.join(str(error).split())}", "lora_target_modules") from error
    if _adapts_a_tie(adapted.get_base_model()):
        if getattr(peft_config, "ensure_weight_tying", False):
            raise InputError("an adapter of embedding and head that stay tied cannot be merged; "
                             "leave ensure_weight_tying out", "peft_config")  # fmt: skip
        _logger.warning("embedding and head are one in this model, and the adapter changes them apart: "
                        "the saved policy/ gets a head of its own (tie_word_embeddings: false)")  # fmt: skip
    return adapted


def load_with_adapter(base: Any, folder: str) -> Any:
    """A plain model with the adapter in a folder merged into it; `base` itself is changed.

    Raises:
        InputError: peft is absent, or the adapter is damaged, not whole, or of another model.
    """
    try:
        from peft import PeftConfig, get_peft_model
    except ImportError as error:
        raise InputError("an adapter needs peft: pip install 'stepcredit[peft]'", folder) from error
    with _quiet_about_ties():
        try:
            model = get_peft_model(base, PeftConfig.from_pretrained(folder))
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            told = " ".join(str(error).split())
            raise InputError(f"the adapter does not fit {base.config._name_or_path}: {told}", folder) from error
        load_adapter(model, Path(folder))
    check_finite(model, folder)
    return _merged_in_place(model)


def load_adapter(model: Any, folder: Path) -> None:
    """The weights of an adapter, from a folder into a model that has one of its shape.

    Raises:
        InputError: damaged or pickled weights, or weights that are missing or of another adapter.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    if not (folder / ADAPTER_CONFIG).exists():
        raise InputError("no adapter here, but the model was given one", str(folder))
    check_safetensors(folder / ADAPTER_WEIGHTS)
    saved = load_file(folder / ADAPTER_WEIGHTS)
    needed = get_peft_model_state_dict(model, save_embedding_layers=False)
    if missing := set(needed) - set(saved):
        raise InputError(f"weights of the adapter are missing: {listed(missing)}", str(folder))
    try:
        result = set_peft_model_state_dict(model, saved)
    except RuntimeError as error:
        told = str(error).splitlines()[-1].strip()
        raise InputError(f"the adapter does not fit the model: {told}", str(folder)) from error
    if result.unexpected_keys:
        raise InputError(f"the model has no place for {listed(result.unexpected_keys)}", str(folder))


def save_adapter(model: Any, folder: Path) -> None:
    """The adapter of a PEFT model by itself, as peft writes it."""
    with _quiet_about_ties():
        model.save_pretrained(folder, safe_serialization=True)


def merged(model: Any) -> Any:
    """A plain copy of a PEFT model with its adapter merged in: the same function, whatever was tied."""
    return _merged_in_place(copy.deepcopy(model))


def _merged_in_place(model: Any) -> Any:
    base = model.get_base_model()
    if _adapts_a_tie(base):
        _untie(base)
    with _quiet_about_ties():
        plain = model.merge_and_unload()
    plain._hf_peft_config_loaded = False
    return plain


def _check_targets(model: nn.Module, peft_config: Any) -> None:
    """peft itself looks only whether any name is found."""
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


def _ends(base: Any) -> list[tuple[Any, bool]]:
    """(embedding, head), each with whether an adapter lies around it; none where the model has no head of tokens."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (base.get_input_embeddings(), base.get_output_embeddings())
    if None in layers:
        return []
    adapted = [isinstance(layer, BaseTunerLayer) for layer in layers]
    return [(layer.get_base_layer() if a else layer, a) for layer, a in zip(layers, adapted, strict=True)]


def _adapts_a_tie(base: Any) -> bool:
    ends = _ends(base)
    return bool(ends) and ends[0][0].weight is ends[1][0].weight and any(adapted for _, adapted in ends)


def _untie(base: Any) -> None:
    """Give the head weights of its own, so that merging into one leaves the other alone."""
    head = _ends(base)[1][0]
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (base.config, base.config.get_text_config()):
        config.tie_word_embeddings = False


@contextmanager
def _quiet_about_ties() -> Iterator[None]:
    """peft warns of what `merged` does right, and of the embedding that it saves with its adapter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tie_word_embeddings.*", UserWarning)
        warnings.filterwarnings("ignore", ".*no longer tied.*", UserWarning)
        warnings.filterwarnings("ignore", ".*save_embedding_layers.*", UserWarning)
        yield
