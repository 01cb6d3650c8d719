"""Memory-mapped rows of numbers per token sequence, computed once by frozen weights and kept in a folder.

`rows.bin` holds the rows of all sequences one after another, `index.jsonl` a line per sequence, written after its rows,
so that a computation that is interrupted resumes at the first missing sequence. A sequence is found by a hash of its
token ids, and the folder belongs to the weights that `manifest.json` names: other data adds rows, and other weights
are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.files import changed_settings, read_manifest, why_not_written, write_json
from stepcredit.models.adapters import is_peft

MANIFEST, INDEX, ROWS = "manifest.json", "index.jsonl", "rows.bin"
_NOT_OF_WEIGHTS = {
    "_name_or_path", "architectures", "classifier_dropout", "dtype", "id2label", "label2id", "num_labels",
    "problem_type", "stepcredit", "text_prompts", "tie_word_embeddings", "token_classification_bias",
    "transformers_version", "use_cache", "value_bins", "bos_token_id", "eos_token_id", "pad_token_id", "return_dict",
    "output_hidden_states",
}  # fmt: skip
"""Entries of a config on which the hidden states of a model do not depend."""


def fingerprint(model: Any) -> str:
    """Returns a hash of a model's class, of its config as far as hidden states depend on it, and of all weights.

    Of a PEFT model, the weights without the LoRA adapter.
    """
    model = model.get_base_model() if is_peft(model) else model
    digest = hashlib.blake2b(type(model).__name__.encode(), digest_size=16)
    config = {name: entry for name, entry in model.config.to_dict().items() if name not in _NOT_OF_WEIGHTS}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    weights = {n.replace(".base_layer.", "."): w for n, w in model.state_dict().items() if ".lora_" not in n}
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def key_of(ids: NDArray[np.int32], start: int = 0) -> str:
    """Returns the key of the positions from `start` on of a sequence of token ids."""
    return hashlib.blake2b(np.asarray(ids, dtype=np.int32).tobytes() + start.to_bytes(8, "little"),
                           digest_size=12).hexdigest()  # fmt: skip


class ActivationStore:
    """The rows of token sequences in a folder.

    Args:
        folder: the folder; created if missing.
        weights: the fingerprint of the weights that compute the rows.
        width: numbers per row.
        dtype: the type in which they are kept.

    Raises:
        InputError: the folder holds rows of other weights or of another type, or is damaged.
    """

    def __init__(self, folder: Path, weights: str, width: int, dtype: torch.dtype) -> None:
        self.folder, self.width, self.dtype = folder, width, dtype
        self._places: dict[str, tuple[int, int]] = {}
        self._count = 0
        self._mapped: Tensor | None = None
        about = {"weights": weights, "width": width, "dtype": str(dtype).removeprefix("torch.")}
        if not (folder / MANIFEST).exists():
            write_json(folder / MANIFEST, about)
        changed = changed_settings(read_manifest(folder / MANIFEST, tuple(about)), about)
        if changed:
            raise InputError(f"is stale: computed with another {', '.join(changed)}; delete it, or choose another "
                             "--activation_cache", str(folder))  # fmt: skip
        self._read_index()

    @property
    def gigabytes(self) -> float:
        """The size of the rows."""
        return self._count * self.width * self.dtype.itemsize / 1e9

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def rows(self, key: str) -> Float[Tensor, "T W"]:
        """Returns the rows of a sequence, which stay on disk until they are read."""
        start, count = self._places[key]
        if self._mapped is None:
            self._mapped = torch.from_file(
                str(self.folder / ROWS), shared=False, size=self._count * self.width, dtype=self.dtype
            ).view(-1, self.width)
        return self._mapped[start : start + count]

    def append(self, sequences: Iterable[tuple[str, Float[Tensor, "_ W"]]]) -> None:
        """Adds sequences that are not there yet; only one process at a time may do so."""
        new = {key: rows for key, rows in sequences if key not in self._places}
        try:
            self._write(new)
        except OSError as error:
            raise InputError(why_not_written(error), str(self.folder)) from error

    def _write(self, new: dict[str, Tensor]) -> None:
        with (self.folder / ROWS).open("r+b" if (self.folder / ROWS).exists() else "w+b") as file:
            file.seek(self._count * self.width * self.dtype.itemsize)  # over rows without a line in the index
            for rows in new.values():
                file.write(rows.detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
        with (self.folder / INDEX).open("a", encoding="utf-8") as index:
            for key, rows in new.items():
                index.write(json.dumps([key, len(rows)]) + "\n")
                self._places[key] = (self._count, len(rows))
                self._count += len(rows)
        self._mapped = None

    def _read_index(self) -> None:
        path = self.folder / INDEX
        if not path.exists():
            return
        lines = path.read_bytes().split(b"\n")
        if lines.pop():  # half a line of a process that was killed
            path.write_bytes(b"".join(line + b"\n" for line in lines))
        try:
            for key, count in map(json.loads, lines):
                self._places[key] = (self._count, int(count))
                self._count += int(count)
        except (ValueError, TypeError) as error:
            raise InputError("is damaged; delete its folder", str(path)) from error
        size = (self.folder / ROWS).stat().st_size if (self.folder / ROWS).exists() else 0
        if size < self._count * self.width * self.dtype.itemsize:
            raise InputError("is shorter than its index says; delete its folder", str(self.folder / ROWS))


def padded(rows: Sequence[Float[Tensor, "_ W"]]) -> Float[Tensor, "B T W"]:
    """Pads rows of several sequences on the right with zeros."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
