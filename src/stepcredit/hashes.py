"""Hashes of files, by which a model is known again under a name that another one had before."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path


def folder_hashes(path: Path) -> dict[str, str]:
    """Returns the hashes of the files of a folder, by name, or of a single file; hidden files do not count."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
    return {file.name: file_hash(file) for file in files}


def file_hash(file: Path) -> str:
    """Returns the SHA-256 of a file; one that has not been written since is read once per process."""
    return _hash_of(file.resolve(), file.stat().st_mtime_ns, file.stat().st_size)


@cache
def _hash_of(file: Path, modified: int, size: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_of(model: str | None) -> str | None:
    """Returns one hash of a model's folder or file; None for a name on the hub, or without a model."""
    if model is None or not Path(model).exists():
        return None
    return hashlib.sha256(json.dumps(folder_hashes(Path(model))).encode()).hexdigest()[:16]
