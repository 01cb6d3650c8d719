"""Result files read and their fields checked; whatever is wrong is told with the file and the row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from stepcredit.errors import InputError
from stepcredit.files import read_json

Row = Mapping[str, object]


def read_rows(path: Path) -> list[object] | None:
    """The list in a JSON file, or None when there is no such file. Raises InputError if it is no list."""
    if not path.is_file():
        return None
    payload = read_json(path)
    if not isinstance(payload, list):
        raise InputError("must hold a JSON list of rows", str(path))
    return payload


def read_object(path: Path) -> Row | None:
    """The object in a JSON file, or None when there is no such file. Raises InputError if it is none."""
    return row_of(read_json(path), str(path)) if path.is_file() else None


def printable(text: str) -> str:
    """The text on one line, whatever cannot be printed replaced by a mark."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def row_of(payload: object, where: str) -> Row:
    """The payload as a row. Raises InputError when it is no JSON object."""
    if not isinstance(payload, Mapping):
        raise InputError(f"must be a JSON object, found {payload!r:.60}", where)
    return payload


def list_of(row: Row, key: str, where: str) -> list[object]:
    """A required list. Raises InputError otherwise."""
    value = row.get(key)
    if not isinstance(value, list):
        raise InputError(f"field {key!r} must be a list, found {value!r:.60}", where)
    return value


def text_of(row: Row, key: str, where: str, default: str | None = None) -> str:
    """A text. Raises InputError when it is missing and has no default, or when it is no text."""
    value = row.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise InputError(f"field {key!r} must be a text, found {value!r:.60}", where)
    return value


def optional_number(row: Row, key: str, where: str) -> float | None:
    """A finite number, or None when the field is missing or null. Raises InputError otherwise."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise InputError(f"field {key!r} must be a finite number, found {value!r:.60}", where)
    return float(value)


def number_of(row: Row, key: str, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A required finite number from low to high. Raises InputError otherwise."""
    value = optional_number(row, key, where)
    if value is None or not low <= value <= high:
        limits = f" from {low:g} to {high:g}" if math.isfinite(high) else f" of at least {low:g}"
        limits = limits if math.isfinite(low) else ""
        raise InputError(f"field {key!r} must be a number{limits}, found {row.get(key)!r:.60}", where)
    return value


def optional_count(row: Row, key: str, where: str) -> int | None:
    """A whole number of at least 0, or None when missing or null. Raises InputError otherwise."""
    value = optional_number(row, key, where)
    if value is None:
        return None
    if value < 0 or value != int(value):
        raise InputError(f"field {key!r} must be a whole number of at least 0, found {value:g}", where)
    return int(value)


def count_of(row: Row, key: str, where: str) -> int:
    """A required whole number of at least 1. Raises InputError otherwise."""
    value = optional_count(row, key, where)
    if not value:
        raise InputError(f"field {key!r} must be a whole number of at least 1, found {row.get(key)!r}", where)
    return value
