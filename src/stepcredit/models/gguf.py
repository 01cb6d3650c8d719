"""Loading of `.gguf` files, dequantised into plain models that can be trained and saved.

llama.cpp's format stores most weights in blocks of a few bits. transformers dequantises them but still marks the model
as quantised, which it refuses to save; here the marks are removed. The rounding error of the quantisation remains.
"""

from __future__ import annotations

import json
import logging
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

from stepcredit.errors import InputError
from stepcredit.models.checks import check_loaded

SUFFIX = ".gguf"
FLOATS = ("F64", "F32", "F16", "BF16")
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, struct.error)
"""The errors that the readers raise for damaged files."""

_logger = logging.getLogger(__name__)
_reported: set[Path] = set()


def is_gguf(name_or_path: str) -> bool:
    """Whether this is the name of a `.gguf` file, existing or not."""
    return str(name_or_path).lower().endswith(SUFFIX)


def gguf_tokenizer(path: str) -> Any:
    """Loads the tokenizer of a `.gguf` file, with its chat template and special tokens.

    Raises:
        InputError: the file is missing or damaged, or the package gguf is not installed.
    """
    _check_readable(path)
    return _without_added_tokens(_read(transformers.AutoTokenizer, path, {}), path)


def gguf_policy(path: str, model_init_kwargs: dict[str, Any]) -> Any:
    """Loads and dequantises the causal language model of a `.gguf` file; warns once about the rounding.

    Args:
        path: the file.
        model_init_kwargs: keyword arguments of `from_pretrained`; the default `dtype` is float32.

    Raises:
        InputError: the file is missing, damaged or incomplete (`checks.check_loaded`), or the package gguf is not
            installed.
    """
    _check_readable(path)
    kinds = quantisation(path)
    config = getattr(transformers, "GgufConfig", None)  # versions without it always dequantise
    dequantise = {} if config is None else {"quantization_config": config(dequantize=True)}
    dtype = {} if model_init_kwargs.keys() & {"dtype", "torch_dtype"} else {"dtype": torch.float32}
    kwargs = {**dtype, **dequantise, **model_init_kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = _read(transformers.AutoModelForCausalLM, path, kwargs)
    check_loaded(model, info, path, "policy")
    if kinds and (file := Path(path).resolve()) not in _reported:
        _reported.add(file)
        dtype_name = str(model.dtype).removeprefix("torch.")
        _logger.warning("%s: dequantised from %s to %s; the rounding is part of the model", path, kinds, dtype_name)
    return _as_plain_model(model, path)


def quantisation(path: str) -> str:
    """Returns the quantised types of a `.gguf` file, as "Q4_1 (5 bits), Q8_0 (8.5 bits)", the most common first.

    Empty if all weights are floats.

    Raises:
        InputError: the file is damaged.
    """
    from gguf import GGML_QUANT_SIZES, GGUFReader

    weights: Counter[Any] = Counter()
    try:
        for tensor in GGUFReader(path).tensors:
            weights[tensor.tensor_type] += int(tensor.n_elements)
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    sizes = {kind.name: GGML_QUANT_SIZES[kind] for kind, _ in weights.most_common() if kind.name not in FLOATS}
    return ", ".join(f"{name} ({8 * size / block:.3g} bits)" for name, (block, size) in sizes.items())


def _without_added_tokens(tokenizer: Any, path: str) -> Any:
    """Removes tokens that transformers adds and for which the model has no embedding row."""
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.ggml.tokens")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    own = [token for token in state["added_tokens"] if field is None or token["id"] < len(field.data)]
    if len(own) < len(state["added_tokens"]):
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps({**state, "added_tokens": own}))
    return tokenizer


def _check_readable(path: str) -> None:
    if not Path(path).is_file():
        raise InputError("no such file", path)
    try:
        import gguf  # noqa: F401  # transformers reads the file with it
    except ImportError as error:
        raise InputError("a .gguf file needs the package gguf: pip install 'stepcredit[gguf]'", path) from error


def _read(auto_class: Any, path: str, kwargs: dict[str, Any]) -> Any:
    file = Path(path)
    try:
        return auto_class.from_pretrained(str(file.parent), gguf_file=file.name, **kwargs)
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> InputError:
    text = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    return InputError(f"cannot read this .gguf file, which is damaged or of an unknown type ({text})", path)


def _as_plain_model(model: Any, path: str) -> Any:
    """Removes the marks of quantisation from a model and sets its path, where its tokenizer is."""
    model.hf_quantizer = None
    model.is_quantized = False
    for owner, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
    model.name_or_path = model.config._name_or_path = path
    return model
