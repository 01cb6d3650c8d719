"""Settings checked when a config is made: their types, and the limits that their fields declare."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from stepcredit.errors import InputError, quoted

Limits = Mapping[str, Any]
"""What the metadata of a field may say of its values: `at_least`, `above`, `at_most`, `below` (numbers), `choices`,
`not_empty` (text and lists). Each number must be finite unless it says `infinite`."""


def check_settings(config: Any, limits: Mapping[str, Limits] | None = None) -> None:
    """Check every field of a config against its type and its limits.

    Args:
        config: a dataclass; fields whose type is neither a number, text, a flag, nor a list of these are left alone.
        limits: of fields that somebody else declares, by name.

    Raises:
        InputError: naming the setting, its value, and what it must be.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        declared = {**field.metadata, **(limits or {}).get(field.name, {})}
        allowed = _allowed(hints[field.name])
        if value is None or not allowed:
            if value is None and allowed and type(None) not in typing.get_args(hints[field.name]):
                raise InputError("must be given", field.name)
            continue
        several = isinstance(value, list | tuple)
        if (several and list not in allowed) or (not several and list in allowed and not isinstance(value, dict | str)):
            raise InputError(f"must be {_words(allowed)}, not {quoted(value)}", field.name)
        if several and declared.get("not_empty") and not value:
            raise InputError("must not be empty", field.name)
        for item in value if several else [value]:
            _check_value(item, allowed, declared, field.name)


def _allowed(hint: Any) -> set[type]:
    """The types that a hint allows, of those that are checked; `list` with the types of its items."""
    if typing.get_origin(hint) is list:
        return {list, *(_allowed(typing.get_args(hint)[0]))}
    parts = [part for part in typing.get_args(hint) or (hint,) if part is not type(None)]
    if typing.get_origin(hint) is not None and len(parts) == 1:
        return _allowed(parts[0])
    return set(parts) if parts and all(part in (int, float, bool, str) for part in parts) else set()


def _check_value(value: Any, allowed: Iterable[type], limits: Limits, name: str) -> None:
    allowed = set(allowed) - {list}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = type(value) in allowed or (is_number and float in allowed) or (isinstance(value, str) and str in allowed)
    if not fits:
        raise InputError(f"must be {_words(allowed)}, not {quoted(value)}", name)
    if is_number and not limits.get("infinite") and not math.isfinite(value):
        raise InputError(f"must be a finite number, not {value}", name)
    for limit, holds, words in (
        ("at_least", lambda bound: value >= bound, "or more"),
        ("above", lambda bound: value > bound, "above"),
        ("at_most", lambda bound: value <= bound, "or less"),
        ("below", lambda bound: value < bound, "below"),
    ):
        if is_number and limit in limits and not holds(limits[limit]):
            bound = f"{limits[limit]:g}"
            wanted = f"{bound} {words}" if limit in ("at_least", "at_most") else f"{words} {bound}"
            raise InputError(f"{quoted(value)} must be {wanted}", name)
    if "choices" in limits and value not in limits["choices"]:
        raise InputError(f"{quoted(value)} is none of {', '.join(map(str, limits['choices']))}", name)
    if isinstance(value, str) and ((limits.get("not_empty") and not value.strip()) or "\x00" in value):
        raise InputError("must not be empty" if not value.strip() else f"{quoted(value)} holds a NUL", name)


def _words(allowed: Iterable[type]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    items = " or ".join(dict.fromkeys(names[kind] for kind in names if kind in set(allowed)))
    return f"a list ({items})" if list in set(allowed) else items
