"""A row of somebody's log seen through our column names, and the checks that single values must pass."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from stepcredit.episodes.episode import Message
from stepcredit.errors import InputError

_LISTS = ("messages", "completions", "labels", "steps", "step_rewards")
_NUMBERS = ("reward", "label", "sample", "prompt_messages", "truncated")
_TURNS = ("prompt", "completion", "response")
COLUMNS = (*_TURNS, *_LISTS, *_NUMBERS, "prompt_id", "stop_reason", "finish_reason", "verdict")
"""The columns that mean something; all others are metadata."""


@dataclass(frozen=True)
class ImportRules:
    """How rows are read.

    Attributes:
        columns: our name → the name in the log, where they differ.
        reward_range: rewards and step labels outside (both ends belong to it) are refused.

    Raises:
        InputError: a name that is none of ours, or a range without a beginning before its end.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    reward_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for ours in self.columns:
            if ours not in COLUMNS:
                raise InputError(f"{ours!r} is none of {', '.join(COLUMNS)}", "columns")
        if not self.reward_range[0] < self.reward_range[1]:
            raise InputError("give the lowest and then the highest reward", "reward_range")


class RowView:
    """A row seen through our names; remembers what was taken."""

    def __init__(self, data: Mapping[str, Any], rules: ImportRules, text_cells: bool) -> None:
        self._data, self._mapping, self._text_cells = data, rules.columns, text_cells
        self._taken: set[str] = set()
        for theirs in rules.columns.values():
            if theirs not in data:
                raise InputError(f"no column {theirs!r}; the row has {self.names()}", "columns")
        if {"format", "ids", "action_mask"} <= data.keys():
            raise InputError("this is a shard of stored episodes already; it needs no import")

    def names(self) -> str:
        """The row's own column names, for messages."""
        return ", ".join(map(repr, self._data)) or "no columns"

    def _theirs(self, name: str) -> str | None:
        if name in self._mapping:
            return self._mapping[name]
        return name if name in self._data and name not in self._mapping.values() else None

    def has(self, name: str) -> bool:
        """Whether there is a value under our name; an empty CSV cell is one for a response only."""
        theirs = self._theirs(name)
        return theirs is not None and not self._is_empty(name, self._data[theirs])

    def _is_empty(self, name: str, value: Any) -> bool:
        return value is None or (self._text_cells and name not in ("completion", "response") and value.strip() == "")

    def take(self, name: str) -> Any:
        """The value under our name, None where there is none; it will not be metadata."""
        theirs = self._theirs(name)
        if theirs is None:
            return None
        self._taken.add(theirs)
        value = self._data[theirs]
        return _from_cell(name, value) if self._text_cells else value

    def rest(self) -> dict[str, Any]:
        """Everything that was not taken, as JSON has it."""
        left = {k: v for k, v in self._data.items() if k not in self._taken}
        return {k: _as_plain(v, k) for k, v in left.items() if k not in COLUMNS or not self._is_empty(k, v)}


def _from_cell(name: str, cell: str) -> Any:
    """A CSV cell as a value; text that does not read as expected stays text, and is refused by its column."""
    if name in _TURNS and not cell.lstrip().startswith("[{"):
        return cell
    if not cell.strip():
        return None
    if name in _LISTS or name in _TURNS:
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    if name in _NUMBERS:
        if cell.strip().lower() in ("true", "false"):
            return cell.strip().lower() == "true"
        try:
            return float(cell)
        except ValueError:
            return cell
    return cell


def _as_plain(value: Any, column: str) -> Any:
    """A value as JSON has it: missing numbers are null, dates and decimals text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(k): _as_plain(v, column) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_plain(v, column) for v in value]
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | Decimal):
        return str(value)
    raise InputError(f"a {type(value).__name__} cannot be kept in the metadata; leave the column out", column)


def turns(value: Any, name: str) -> str | list[Message]:
    """Text, or chat messages without their empty keys."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise InputError(f"must be text or a list of chat messages, not {shown(value)}", name)
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError("every message needs a role, and a content that is text", name)
        if not isinstance(message.get("content"), str) and not (message.get("content") is None and _calls(message)):
            raise InputError("every message needs a role, and a content that is text (or tool_calls)", name)
    kept = [{k: v for k, v in message.items() if v is not None} for message in value]
    return [{**message, "content": message.get("content")} for message in kept]


def _calls(message: Mapping[str, Any]) -> bool:
    return isinstance(message.get("tool_calls"), list) and bool(message["tool_calls"])


def number(value: Any, name: str, rules: ImportRules) -> float:
    """A reward: a finite number within the range, or a boolean."""
    if not isinstance(value, bool | int | float):
        raise InputError(f"must be a number, not {shown(value)}", name)
    if isinstance(value, int) and abs(value) > 2**63:
        raise InputError("the number is too large", name)
    reward, (low, high) = float(value), rules.reward_range
    if not math.isfinite(reward):
        raise InputError(f"{reward} is not a finite number", name)
    if not low <= reward <= high:
        wider = f"--reward_range {min(low, reward):g} {max(high, reward):g}"
        raise InputError(f"{reward:g} lies outside [{low:g}, {high:g}]; widen it with {wider}", name)
    return reward


def numbers(value: Any, name: str, rules: ImportRules) -> tuple[float, ...]:
    """A list of rewards."""
    if not isinstance(value, list):
        raise InputError(f"must be a list of numbers, not {shown(value)}", name)
    return tuple(number(item, f"{name}[{k}]", rules) for k, item in enumerate(value))


def texts(value: Any, name: str) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"must be a list of texts, not {shown(value)}", name)
    return tuple(value)


def flag(value: Any, name: str) -> bool:
    """True or false, also as 1 or 0."""
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise InputError(f"must be true or false (or 1 or 0), not {shown(value)}", name)
    return bool(value)


def count(value: Any, name: str) -> int | None:
    """A whole number from 0 on, or None where there is none."""
    if value is None:
        return None
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole or not 0 <= value < 2**63:
        raise InputError(f"must be a whole number from 0 on, not {shown(value)}", name)
    return int(value)


def shown(value: Any) -> str:
    """A value for a message: what it is, and how it begins."""
    if value is None:
        return "null"
    text = repr(value)
    return f"the {type(value).__name__} {text[:40]}{'…' if len(text) > 40 else ''}"
