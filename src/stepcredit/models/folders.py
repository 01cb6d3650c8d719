"""What a saved model's folder must hold before anything is loaded from it: config.json and whole safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open

from stepcredit.errors import InputError

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
WEIGHTS, INDEX, ADAPTER_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def check_model_folder(folder: Path, trust_remote_code: bool = False) -> None:
    """Look at a folder's config.json and at the headers of its weights; no weight is read.

    Raises:
        InputError: config.json is absent, damaged or of an unknown kind of model; or weights are absent, pickled,
            cut short, or no safetensors.
    """
    if not folder.is_dir():
        raise InputError("is a file; give the folder of a saved model", str(folder))
    if not (folder / CONFIG).exists():
        inner = next((name for name in ("policy", "value") if (folder / name / CONFIG).exists()), None)
        hint = f" (its {inner}/ folder has one)" if inner else ""
        raise InputError(f"no config.json here{hint}; give the folder of a saved model", str(folder))
    _check_config(read_object(folder / CONFIG), folder, trust_remote_code)
    for file in _weight_files(folder):
        check_safetensors(file)


def check_tokenizer_folder(folder: Path) -> None:
    """Look at a folder's tokenizer files, and at its config.json, which says of which class the tokenizer is: those
    that are there must be JSON objects.

    Raises:
        InputError: none is there, or one is damaged.
    """
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    if not found and not list(folder.glob("*.model")) and not (folder / "vocab.json").exists():
        raise InputError("no tokenizer here (tokenizer.json); save the model's tokenizer into this folder", str(folder))
    for file in [folder / CONFIG, *found]:
        if file.exists():
            read_object(file)


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file that came with a model.

    Raises:
        InputError: it is absent, empty, not JSON, or holds something else.
    """
    again = "copy it again from where the model was saved"
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file.name}: {error}", str(file.parent)) from error
    except json.JSONDecodeError as error:
        what = f"is not JSON ({error})" if text.strip() else "is empty"
        raise InputError(f"{file.name} {what}; {again}", str(file.parent)) from error
    if not isinstance(found, dict) or not found:
        what = "holds nothing" if found in ({}, [], None) else f"holds a {type(found).__name__} in place of settings"
        raise InputError(f"{file.name} {what}; {again}", str(file.parent))
    return found


def check_safetensors(file: Path) -> None:
    """Read the header of a safetensors file, which says how long the file is.

    Raises:
        InputError: it is absent, empty, cut short, or something else.
    """
    again = "copy it again from where the model was saved"
    if not file.is_file():
        raise InputError(f"{file.name} is missing; {again}", str(file.parent))
    with file.open("rb") as opened:
        start = opened.read(24)
    if not start:
        raise InputError(f"{file.name} is empty; {again}", str(file.parent))
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{file.name} is a pointer of Git LFS, not the weights: git lfs pull", str(file.parent))
    try:
        with safe_open(file, framework="pt") as tensors:
            named = list(tensors.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file.name} is damaged or cut short ({error}); {again}", str(file.parent)) from error
    if not named:
        raise InputError(f"{file.name} holds no weights; {again}", str(file.parent))


def _check_config(config: dict[str, Any], folder: Path, trust_remote_code: bool) -> None:
    kind = config.get("model_type")
    if "auto_map" in config and trust_remote_code:
        return
    if not isinstance(kind, str) or not kind:
        raise InputError("config.json names no model_type; give the folder of a saved model", str(folder))
    if kind not in transformers.CONFIG_MAPPING:
        hint = "it brings code of its own, which --trust_remote_code runs" if "auto_map" in config else (
            "a newer version may")  # fmt: skip
        raise InputError(f"transformers {transformers.__version__} does not know the model_type {kind!r}; {hint}",
                         str(folder))  # fmt: skip
    rows, pad = config.get("vocab_size"), config.get("pad_token_id")
    if isinstance(rows, int) and isinstance(pad, int) and pad >= rows:
        raise InputError(f"config.json has a pad_token_id of {pad} and a vocab_size of {rows}, which has no such id",
                         str(folder))  # fmt: skip


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers would read, as far as they are named."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        shards = read_object(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise InputError(f"{INDEX} has no weight_map; copy it again from where the model was saved", str(folder))
        return [folder / name for name in sorted(set(shards.values()))]
    if pickled := sorted(file.name for kind in PICKLED for file in folder.glob(kind)):
        raise InputError(
            f"pickled weights only ({pickled[0]}), which can run code when they are read; load the model with "
            "transformers where you trust it, and save_pretrained writes safetensors", str(folder),
        )  # fmt: skip
    raise InputError(f"no weights here ({WEIGHTS}); copy them from where the model was saved", str(folder))
