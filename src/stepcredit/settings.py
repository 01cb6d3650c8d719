"""Checking of settings when a config is created: their names, types, and the limits that their fields declare."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

from stepcredit.errors import InputError, quoted


@dataclass(frozen=True)
class Limits:
    """Allowed values of a setting, or of each item of a list; declared as in `Annotated[float, Limits(above=0)]`.

    Attributes:
        at_least, above, at_most, below: bounds of a number.
        infinite: a number may be infinite or NaN.
        not_empty: text or a list must not be empty.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    infinite: bool = False
    not_empty: bool = False

    def broken_by(self, number: float) -> str | None:
        """Returns the limit that a number exceeds, in words; None if it is allowed."""
        if not self.infinite and not math.isfinite(number):
            return "a finite number"
        if self.at_least is not None and number < self.at_least:
            return f"{self.at_least:g} or more"
        if self.above is not None and number <= self.above:
            return f"above {self.above:g}"
        if self.at_most is not None and number > self.at_most:
            return f"{self.at_most:g} or less"
        if self.below is not None and number >= self.below:
            return f"below {self.below:g}"
        return None


def check_settings(config: Any, limits: Mapping[str, Limits] | None = None) -> None:
    """Check every field of a config: see `check_values`."""
    check_values(type(config), {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, limits)


def check_values(kind: type, values: Mapping[str, Any], limits: Mapping[str, Limits] | None = None) -> None:
    """Check settings of a config: their types, their `Limits`, and the `choices` of their metadata.

    Args:
        kind: a dataclass; only fields of numbers, text, booleans and lists of these are checked.
        values: value by name of the field.
        limits: limits by name, of fields that another library declares.

    Raises:
        InputError: a value is not allowed; names the setting, the value, and what is allowed.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name, value in values.items():
        allowed = Kind.of(hints[name])
        declared = (limits or {}).get(name, allowed.limits)
        _check_value(value, allowed, declared, fields[name].metadata.get("choices"), name)


class Kind(NamedTuple):
    """The types that a field allows, if it is a field of numbers, text, booleans, or a list of these."""

    items: frozenset[type]
    is_list: bool
    optional: bool
    limits: Limits

    @classmethod
    def of(cls, hint: Any) -> Kind:
        """Returns the kind of a type hint; `items` is empty if the field is not checked."""
        limits = next((x for x in getattr(hint, "__metadata__", ()) if isinstance(x, Limits)), Limits())
        bare = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        parts = (
            typing.get_args(bare) if isinstance(bare, types.UnionType) or typing.get_origin(bare) is Union else (bare,)
        )
        wanted = [part for part in parts if part is not type(None)]
        is_list = len(wanted) == 1 and typing.get_origin(wanted[0]) is list
        items = typing.get_args(wanted[0]) if is_list else wanted
        checked = frozenset(items) if all(item in WORDS for item in items) else frozenset()
        return cls(checked, is_list, len(wanted) < len(parts), limits)

    @property
    def words(self) -> str:
        """The allowed types, in words."""
        items = " or ".join(WORDS[item] for item in WORDS if item in self.items)
        return f"a list ({items})" if self.is_list else items

    def fits(self, value: object) -> bool:
        """Whether a value, or an item of a list, is of the right type; an integer is a number, a boolean is not."""
        if isinstance(value, bool):
            return bool in self.items
        return (
            (isinstance(value, float) and float in self.items)
            or (isinstance(value, int) and bool({int, float} & self.items))
            or (isinstance(value, str) and str in self.items)
        )


WORDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _check_value(value: Any, kind: Kind, limits: Limits, choices: Sequence[Any] | None, name: str) -> None:
    if not kind.items or (value is None and kind.optional):
        return
    if value is None:
        raise InputError("must be given", name)
    several = isinstance(value, list | tuple)
    if several is not kind.is_list:
        raise InputError(f"must be {kind.words}, not {quoted(value)}", name)
    if limits.not_empty and not (value.strip() if isinstance(value, str) else value):
        raise InputError("must not be empty", name)
    for item in value if several else [value]:
        if not kind.fits(item):
            raise InputError(f"must be {kind._replace(is_list=False).words}, not {quoted(item)}", name)
        if isinstance(item, int | float) and not isinstance(item, bool):
            broken = limits.broken_by(item)
            if broken is not None:
                raise InputError(f"{quoted(item)} must be {broken}", name)
        if choices is not None and item not in choices:
            near = resembling(str(item), map(str, choices))
            raise InputError(f"{quoted(item)} is none of {', '.join(map(str, choices))}{near}", name)
        if isinstance(item, str) and "\x00" in item:
            raise InputError(f"{quoted(item)} holds a NUL", name)


class Named:
    """A config whose error for an unknown setting names it and the setting that it resembles.

    The names are checked in `__new__`, before the dataclass's own `__init__`, whose error has neither.
    """

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        """See `check_names`."""
        check_names(settings, [f.name for f in dataclasses.fields(cls) if f.init], cls.__name__)  # type: ignore[arg-type]
        return super().__new__(cls)


class Settings(Named):
    """Base class of the configs of commands: dataclasses whose settings are checked when they are created."""

    def __post_init__(self) -> None:
        """See `check_settings`."""
        check_settings(self)


def check_names(given: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Check that settings exist.

    Raises:
        InputError: a setting is unknown; names the one that it resembles.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise InputError(f"unknown setting {quoted(name)}{resembling(str(name), known)}", where)


OTHER_NAMES = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "bs": "per_device_train_batch_size",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
    "max_tokens": "max_new_tokens",
    "temp": "temperature",
    "lora_rank": "lora_r",
    "resume": "resume_from_checkpoint",
    "model_name": "model",
    "model_name_or_path": "model",
    "policy": "model",
    "reference_model": "ref_model",
    "dataset": "episodes",
    "dataset_name": "episodes",
    "train_file": "episodes",
    "out": "output_dir",
    "output": "output_dir",
    "n": "num_generations",
    "num_samples": "num_generations",
}
"""What a setting is called elsewhere → what it is called here, where it resembles that too little to be found."""


def resembling(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns "; did you mean …?" for an unknown name, or nothing if it resembles none of the known ones
    and is not a known one's name elsewhere.

    Args:
        name: the unknown name, with or without the prefix.
        known: known names, without the prefix.
        prefix: what every name is written with, such as "--"; it makes no two names alike.
    """
    name, known = name.removeprefix(prefix), list(known)
    if (ours := OTHER_NAMES.get(name)) in known:
        return f"; did you mean {prefix}{ours}?"
    longer = [other for other in known if len(name) > 3 and other.startswith(name)]
    near = longer or difflib.get_close_matches(name, known, 1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def choose(value: Any, choices: Iterable[Any], name: str) -> None:
    """Check that a setting is one of an enumeration's values.

    Raises:
        InputError: it is not; names the choices.
    """
    known = [str(getattr(choice, "value", choice)) for choice in choices]
    text = str(getattr(value, "value", value))
    if text not in known:
        raise InputError(f"unknown {quoted(text)}{resembling(text, known)}; choose from {', '.join(known)}", name)


def json_object(text: str, name: str) -> dict[str, Any]:
    """Reads a setting that is given as a JSON object.

    Raises:
        InputError: the text is not JSON, or not an object.
    """
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", name) from error
    if not isinstance(read, dict):
        raise InputError(f'must be a JSON object, as {{"name": 1}}, not {quoted(read)}', name)
    return read
