"""What can be done to a file."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

from faults.case import Damage


def content(file: str, data: bytes | str) -> Damage:
    """A file with other content."""

    def damage(here: Path) -> None:
        (here / file).write_bytes(data.encode() if isinstance(data, str) else data)

    return damage


def shortened(file: str, keep: float) -> Damage:
    """A file of which the end is missing."""

    def damage(here: Path) -> None:
        whole = (here / file).read_bytes()
        (here / file).write_bytes(whole[: int(keep * len(whole))])

    return damage


def changed(file: str, **values: Any) -> Damage:
    """A JSON object with other values."""

    def damage(here: Path) -> None:
        read = json.loads((here / file).read_text(encoding="utf-8"))
        (here / file).write_text(json.dumps({**read, **values}), encoding="utf-8")

    return damage


def folder_in_place_of(file: str) -> Damage:
    """A folder where a file should be."""

    def damage(here: Path) -> None:
        (here / file).unlink(missing_ok=True)
        (here / file).mkdir()

    return damage


def loop(name: str) -> Damage:
    """A symbolic link to itself."""

    def damage(here: Path) -> None:
        os.symlink(name, here / name)

    return damage


def linked_into(parent: str) -> Damage:
    """A folder that contains a link to itself."""

    def damage(here: Path) -> None:
        os.symlink("..", here / parent / "again")

    return damage


def unreadable(file: str) -> Damage:
    """Bytes that no text has."""
    return content(file, b"\xff\xfe\x00\x01" * 8)


JSON_DAMAGE: dict[str, Any] = {
    "empty": lambda file: content(file, b""),
    "{}": lambda file: content(file, b"{}"),
    "[]": lambda file: content(file, b"[]"),
    "a list of numbers": lambda file: content(file, b"[1, 2]"),
    "truncated": lambda file: shortened(file, 0.5),
    "a pickle": lambda file: content(file, pickle.dumps({"a": 1})),
    "no UTF-8": unreadable,
    "a folder": folder_in_place_of,
    "deep": lambda file: content(file, "[" * 100_000 + "]" * 100_000),
    "null": lambda file: content(file, b"null"),
}
