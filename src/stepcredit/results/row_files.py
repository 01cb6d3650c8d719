"""Reading and writing of result files as typed rows; errors name the file, row and field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from stepcredit.errors import InputError
from stepcredit.files import locked, read_json, write_json
from stepcredit.results.schema import Range, Row, column, written

R = TypeVar("R")
RowT = TypeVar("RowT", bound=Row)

WORDS: Mapping[Any, str] = {
    str: "a text", int: "a whole number", float: "a finite number", bool: "true or false", list: "a list",
    dict: "an object", NoneType: "null",
}  # fmt: skip


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """Reads the rows of a result file; none if there is no file.

    Args:
        path: file with a JSON list.
        kind: row class of `stepcredit.results.schema`.

    Raises:
        InputError: the file is not a list, or a row is invalid.
    """
    payload = read_json(path) if path.exists() else []
    if not isinstance(payload, list):
        raise InputError("must hold a JSON list of rows", str(path))
    return [parsed(kind, row, f"{path}, row {k}") for k, row in enumerate(payload, 1)]


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Writes rows to a result file."""
    write_json(path, [written(row) for row in rows])


def add_rows(path: Path, new: Sequence[RowT]) -> None:
    """Adds rows of one kind to a result file, replacing those with the same key. Safe for concurrent writers.

    Raises:
        InputError: the file has rows of another kind.
    """
    if not new:
        return
    with locked(path.parent, "adding rows", wait=60):
        old = read_rows(path, type(new[0]))
        write_rows(path, list({row.key(): row for row in [*old, *new]}.values()))


def read_curves(path: Path) -> dict[str, list[dict[str, float]]]:
    """Reads the training curves of `curves.json` by method: the logged numbers per `step`, NaN for null.

    Raises:
        InputError: the file is not an object of lists of objects with a step.
    """
    curves: dict[str, list[dict[str, float]]] = {}
    for method, points in read_object(path).items():
        if not isinstance(points, list):
            raise InputError(f"field {method!r} must be a list, found {points!r:.60}", str(path))
        for k, point in enumerate(points, 1):
            where = f"{path}, {method!r} row {k}"
            step = _value(point.get("step") if isinstance(point, dict) else None, float, "step", where)
            numbers = {name: x for name, x in point.items() if x is None or _is_number(x)}
            finite = {name: float(x) if x is not None and abs(x) < 1e300 else math.nan for name, x in numbers.items()}
            curves.setdefault(method, []).append({**finite, "step": step})
    return curves


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object such as `run.json`; empty if there is no file.

    Raises:
        InputError: the file is not an object.
    """
    payload = read_json(path) if path.exists() else {}
    if not isinstance(payload, dict):
        raise InputError(f"must hold a JSON object, found {payload!r:.60}", str(path))
    return payload


def parsed(kind: type[R], payload: object, where: str) -> R:
    """Parses a JSON object as a row of this kind; unknown columns go to the field `more`, if there is one.

    Raises:
        InputError: a column is missing, of the wrong type or out of range.
    """
    if not isinstance(payload, Mapping):
        raise InputError(f"must be a JSON object, found {payload!r:.60}", where)
    hints = _hints(kind)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    columns = {column(item): item for item in fields(kind) if item.name != "more"}  # type: ignore[arg-type]
    for name, item in columns.items():
        if payload.get(name) is not None or item.default is MISSING:
            values[item.name] = _value(payload.get(name), hints[item.name], name, where)
    if "more" in hints:
        values["more"] = {name: value for name, value in payload.items() if name not in columns}
    return kind(**values)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _value(value: Any, hint: Any, name: str, where: str) -> Any:
    """Checks and converts a value; raises InputError if it does not match the type."""
    for plain, limits in (_plain(part) for part in _parts(hint)):
        of = get_origin(plain) or plain
        if of is Any or (of is NoneType and value is None) or (of is Literal and value in get_args(plain)):
            return value
        if is_dataclass(of) and isinstance(value, Mapping):
            return parsed(cast(type, of), value, where)
        if of is list and isinstance(value, list):
            (item,) = get_args(plain)
            return [_value(part, item, name, f"{where}, {name} {k}") for k, part in enumerate(value, 1)]
        if of in (int, float) and _is_number(value) and limits.low <= value <= limits.high and abs(value) < 1e300:
            if of is float or value == int(value):
                return of(value)
        elif of in (str, bool, dict) and isinstance(value, of):
            return value
    raise InputError(f"field {name!r} must be {_described(hint)}, found {value!r:.60}", where)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _plain(hint: Any) -> tuple[Any, Range]:
    if get_origin(hint) is Annotated:
        plain, limits = get_args(hint)
        return plain, limits
    return hint, Range(-math.inf)


def _described(hint: Any) -> str:
    words = []
    for plain, limits in (_plain(part) for part in _parts(hint)):
        of = get_origin(plain) or plain
        word = ", ".join(get_args(plain)) if of is Literal else WORDS.get(of, "an object")
        if limits.low > -math.inf:
            word += (
                f" from {limits.low:g} to {limits.high:g}" if limits.high < math.inf else f" of at least {limits.low:g}"
            )
        words.append(word)
    return " or ".join(words)
