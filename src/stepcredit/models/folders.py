"""Checks of a saved model's files before loading: config.json, tokenizer files and safetensors headers."""

from __future__ import annotations

import difflib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open

from stepcredit.errors import InputError

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
WEIGHTS, INDEX, ADAPTER_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_SHOWN = 5
"""Models that an error message names."""


def check_model_folder(folder: Path, trust_remote_code: bool = False) -> None:
    """Checks config.json and the headers of the weight files; reads no weights.

    Raises:
        InputError: as in `check_config_folder`; or weights are missing, pickled, truncated, or not safetensors.
    """
    check_config_folder(folder, trust_remote_code)
    for file in _weight_files(folder):
        check_safetensors(file)


def check_config_folder(folder: Path, trust_remote_code: bool = False) -> None:
    """Checks config.json.

    Raises:
        InputError: it is missing, damaged or of an unknown model type.
    """
    if not folder.is_dir():
        raise InputError("is a file; give the folder of a saved model", str(folder))
    if not (folder / CONFIG).exists():
        inner = next((name for name in ("policy", "value") if (folder / name / CONFIG).exists()), None)
        hint = f" (its {inner}/ folder has one)" if inner else ""
        raise InputError(f"no config.json here{hint}; give the folder of a saved model", str(folder))
    _check_config(read_object(folder / CONFIG), folder, trust_remote_code)


def check_not_a_path(name: str) -> None:
    """Checks that what is no folder may be a name on the hub, which is owner/name.

    Raises:
        InputError: it is the path of a folder that does not exist.
    """
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or (name.count("/") == 1 and Path(name).parent.is_dir()):
        raise InputError(f"no such folder{models_like(name)}", name)


def models_like(name: str) -> str:
    """Returns, for an error message, the folder of a model that was meant by the name of none, or those beside it."""
    parent = Path(name).parent
    there: list[str] = []
    with suppress(OSError):  # not there, or not ours to read
        there = sorted(folder.name for folder in parent.iterdir() if _is_model(folder))
    if near := difflib.get_close_matches(Path(name).name, there, 1):
        return f"; did you mean {parent / near[0]}?"
    more = ", …" if len(there) > _SHOWN else ""
    return f"; models in {parent}: {', '.join(there[:_SHOWN])}{more}" if there else ""


def _is_model(folder: Path) -> bool:
    """Whether a folder holds a model or, as the output of a training, several."""
    files = (folder / part / name for part in ("", "policy", "value") for name in (CONFIG, ADAPTER_CONFIG))
    return any(map(os.path.exists, files))


def check_tokenizer_folder(folder: Path) -> None:
    """Checks that the tokenizer files of a folder, and its config.json if there is one, are JSON objects.

    Raises:
        InputError: there are no tokenizer files, or one is damaged.
    """
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    if not files and not list(folder.glob("*.model")) and not (folder / "vocab.json").exists():
        inner = [name for name in ("policy", "value") if (folder / name / CONFIG).exists()]
        instead = "save the model's tokenizer into this folder"
        if inner:
            instead = f"give {' or '.join(str(folder / name) for name in inner)}"
        raise InputError(f"no tokenizer here (tokenizer.json); {instead}", str(folder))
    for file in [folder / CONFIG, *files]:
        if file.exists():
            read_object(file)


def read_object(file: Path) -> dict[str, Any]:
    """Reads a JSON object from a file of a saved model.

    Raises:
        InputError: the file is missing, empty, not JSON, or not an object.
    """
    again = "copy it again from the original model"
    try:
        text = file.read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file.name}: {error}", str(file.parent)) from error
    except json.JSONDecodeError as error:
        what = f"is not JSON ({error})" if text.strip() else "is empty"
        raise InputError(f"{file.name} {what}; {again}", str(file.parent)) from error
    if not isinstance(value, dict) or not value:
        what = "has no content" if value in ({}, [], None) else f"is a {type(value).__name__}, not an object"
        raise InputError(f"{file.name} {what}; {again}", str(file.parent))
    return value


def check_safetensors(file: Path) -> None:
    """Checks the header of a safetensors file, which gives the length of the file.

    Raises:
        InputError: the file is missing, empty, truncated, or not safetensors.
    """
    again = "copy it again from the original model"
    if not file.is_file():
        raise InputError(f"{file.name} is missing; {again}", str(file.parent))
    with file.open("rb") as stream:
        head = stream.read(24)
    if not head:
        raise InputError(f"{file.name} is empty; {again}", str(file.parent))
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{file.name} is a Git LFS pointer, not the weights; run git lfs pull", str(file.parent))
    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file.name} is damaged or truncated ({error}); {again}", str(file.parent)) from error
    if not names:
        raise InputError(f"{file.name} has no weights; {again}", str(file.parent))


def _check_config(config: dict[str, Any], folder: Path, trust_remote_code: bool) -> None:
    kind = config.get("model_type")
    if "auto_map" in config and trust_remote_code:
        return
    if not isinstance(kind, str) or not kind:
        raise InputError("config.json has no model_type; give the folder of a saved model", str(folder))
    if kind not in transformers.CONFIG_MAPPING:
        hint = "its own code can be run with --trust_remote_code" if "auto_map" in config else (
            "try a newer version")  # fmt: skip
        raise InputError(f"transformers {transformers.__version__} does not know the model_type {kind!r}; {hint}",
                         str(folder))  # fmt: skip
    rows, pad = config.get("vocab_size"), config.get("pad_token_id")
    if isinstance(rows, int) and isinstance(pad, int) and pad >= rows:
        raise InputError(f"config.json has pad_token_id {pad}, which must be below vocab_size {rows}",
                         str(folder))  # fmt: skip


def _weight_files(folder: Path) -> list[Path]:
    """Returns the weight files that transformers would read."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        shards = read_object(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise InputError(f"{INDEX} has no weight_map; copy it again from the original model", str(folder))
        return [folder / name for name in sorted(set(shards.values()))]
    if pickled := sorted(file.name for kind in PICKLED for file in folder.glob(kind)):
        raise InputError(
            f"has only pickled weights ({pickled[0]}), which can run code when loaded; if you trust them, load them "
            "with transformers and save them as safetensors with save_pretrained", str(folder),
        )  # fmt: skip
    raise InputError(f"no weights here ({WEIGHTS}); copy them from the original model", str(folder))
