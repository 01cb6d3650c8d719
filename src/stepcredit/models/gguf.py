"""`.gguf` files as models: read by transformers, dequantised into a plain model that trains and saves.

llama.cpp's format stores most weights as blocks of a few bits. transformers unpacks them and then still calls the
model quantised, which it refuses to save; here it becomes a model like any other. What the rounding lost stays
lost: it is part of the model.
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
"""What the readers of a damaged file raise: they check little."""

_logger = logging.getLogger(__name__)
_said: set[Path] = set()


def is_gguf(name_or_path: str) -> bool:
    """Whether this names a `.gguf` file, there or not."""
    return str(name_or_path).lower().endswith(SUFFIX)


def gguf_tokenizer(path: str) -> Any:
    """The tokenizer in a `.gguf` file, with the chat template and special tokens that the file gives it.

    Raises:
        InputError: no such file, a damaged one, or the package gguf is absent.
    """
    _refuse_unless_readable(path)
    return _without_invented(_read(transformers.AutoTokenizer, path, {}), path)


def gguf_policy(path: str, model_init_kwargs: dict[str, Any]) -> Any:
    """The causal language model in a `.gguf` file, every weight dequantised; says once what was rounded.

    Args:
        model_init_kwargs: keyword arguments of `from_pretrained`; without a `dtype` the weights become float32.

    Raises:
        InputError: no such file, one that is damaged or not whole (`checks.check_loaded`), or the package gguf is
            absent.
    """
    _refuse_unless_readable(path)
    kinds = quantisation(path)
    config = getattr(transformers, "GgufConfig", None)  # a version without it always unpacks
    unpack = {} if config is None else {"quantization_config": config(dequantize=True)}
    dtype = {} if model_init_kwargs.keys() & {"dtype", "torch_dtype"} else {"dtype": torch.float32}
    read = {**dtype, **unpack, **model_init_kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = _read(transformers.AutoModelForCausalLM, path, read)
    check_loaded(model, info, path, "policy")
    if kinds and (file := Path(path).resolve()) not in _said:
        _said.add(file)
        dtype_name = str(model.dtype).removeprefix("torch.")
        _logger.warning("%s: dequantised from %s to %s; the rounding is part of the model", path, kinds, dtype_name)
    return _made_plain(model, path)


def quantisation(path: str) -> str:
    """The types in which a `.gguf` file keeps its weights, as "Q4_1 (5 bits), Q8_0 (8.5 bits)"; the commonest first.

    Empty where all are floats.

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


def _without_invented(tokenizer: Any, path: str) -> Any:
    """A tokenizer with the tokens of its file alone: transformers adds some, for which the model has no row."""
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.ggml.tokens")
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    own = [token for token in written["added_tokens"] if field is None or token["id"] < len(field.data)]
    if len(own) < len(written["added_tokens"]):
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps({**written, "added_tokens": own}))
    return tokenizer


def _refuse_unless_readable(path: str) -> None:
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
    told = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    return InputError(f"cannot read this .gguf file, which is damaged or of an unknown kind ({told})", path)


def _made_plain(model: Any, path: str) -> Any:
    """A model without the marks of quantisation, which knows where its tokenizer is."""
    model.hf_quantizer = None
    model.is_quantized = False
    for marked, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(marked, name):
            delattr(marked, name)
    model.name_or_path = model.config._name_or_path = path
    return model
