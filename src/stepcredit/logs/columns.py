"""A row of somebody's log seen through our column names, and the checks that single values must pass."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError

_LISTS = ("messages", "completions", "labels", "steps", "step_rewards", "tools")
"""Columns of lists, which CSV cells, and some logs of other formats, hold as JSON text."""
_NUMBERS = ("reward", "label", "sample", "prompt_messages", "truncated")
_TURNS = ("prompt", "completion", "response")
COLUMNS = (*_TURNS, *_LISTS, *_NUMBERS, "system", "prompt_id", "stop_reason", "finish_reason", "verdict")
"""The columns that mean something; all others are metadata."""
_ALIASES = {"messages": "conversations"}
_OTHER_NAMES = {
    "prompt": ("question", "problem", "query"),
    "completion": ("output", "generation", "generated_text", "answer_text", "model_output", "solution"),
    "reward": ("score", "correct", "is_correct", "acc", "accuracy", "success", "passed", "rewards", "return"),
}
"""What others call a column. It is not read as one unasked, for an `output` may be a gold answer; messages ask."""


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

    @classmethod
    def of_range(cls, ends: Sequence[float], columns: Mapping[str, str] | None = None) -> ImportRules:
        """Rules with a range as a setting gives it.

        Raises:
            InputError: not two ends.
        """
        if len(ends) != 2:
            raise InputError("give the lowest and then the highest reward", "reward_range")
        return cls(columns or {}, (ends[0], ends[1]))

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
        self._taken: set[str | None] = set()
        for theirs in rules.columns.values():
            if theirs not in data:
                raise InputError(f"no column {theirs!r}; the row has {self.names()}", "columns")
        if {"format", "ids", "action_mask"} <= data.keys():
            raise InputError("this is a shard of stored episodes already; it needs no import")

    def names(self) -> str:
        """The row's own column names, for messages."""
        return ", ".join(map(repr, self._data)) or "no columns"

    def renaming(self, *ours: str) -> str:
        """The setting that names columns of the row as ours, as far as names tell."""
        found = ((name, next((n for n in _OTHER_NAMES.get(name, ()) if n in self._data), "…")) for name in ours)
        return "--columns " + " ".join(f"{name}={theirs}" for name, theirs in found)

    def _theirs(self, name: str) -> str | None:
        if name in self._mapping:
            return self._mapping[name]
        found = _ALIASES.get(name) if name not in self._data else name
        return found if found in self._data and found not in self._mapping.values() else None

    def has(self, name: str) -> bool:
        """Whether there is a value under our name; an empty CSV cell is one for a response only."""
        theirs = self._theirs(name)
        return theirs is not None and not self._is_empty(name, self._data[theirs])

    def _is_empty(self, name: str, value: Any) -> bool:
        return value is None or (self._text_cells and name not in ("completion", "response") and value.strip() == "")

    def take(self, name: str) -> Any:
        """The value under our name, None where there is none; it will not be metadata."""
        self._taken.add(self._theirs(name))
        return self.peek(name)

    def peek(self, name: str) -> Any:
        """The value under our name, None where there is none."""
        theirs = self._theirs(name)
        if theirs is None:
            return None
        value = unboxed(self._data[theirs])
        return _from_text(name, value, self._text_cells) if isinstance(value, str) else value

    def rest(self) -> dict[str, Any]:
        """Everything that was not taken, as JSON has it."""
        left = {k: v for k, v in self._data.items() if k not in self._taken}
        return {k: _as_plain(v, k) for k, v in left.items() if k not in COLUMNS or not self._is_empty(k, v)}


def _from_text(name: str, text: str, is_cell: bool) -> Any:
    """A value that is text, as the column means it; text that does not read as expected stays text, and is refused by
    its column.

    Args:
        name: ours.
        text: the value.
        is_cell: of a CSV file, where chat messages are JSON and nothing is an empty cell.
    """
    if name in _LISTS or (is_cell and name in _TURNS and text.lstrip().startswith("[{")):
        return from_json(text)
    if is_cell and name not in _TURNS and not text.strip():
        return None
    return scalar(text) if is_cell and name in _NUMBERS else text


def from_json(text: str) -> Any:
    """What text says as JSON, null for nothing; the text itself where it is none."""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def scalar(value: Any) -> Any:
    """True, false or a number where text says one of them and nothing else; any other value as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text in ("true", "false"):
        return text == "true"
    if "_" in text or not text.isascii():
        return value
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return value


def unboxed(value: Any) -> Any:
    """Scalars, arrays and tensors of numpy and torch as Python has them."""
    return value.tolist() if hasattr(value, "tolist") else value


def _as_plain(value: Any, column: str) -> Any:
    """A value as JSON has it: missing numbers are null, dates and decimals text."""
    value = unboxed(value)
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


def number(value: Any, name: str, rules: ImportRules) -> float:
    """A reward: a finite number within the range, or a boolean; also as text."""
    raw, value = value, scalar(value)
    if not isinstance(value, bool | int | float):
        raise InputError(f"must be a number, not {shown(raw)}", name)
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


def check_rewards(episode: Episode, rules: ImportRules, where: str) -> None:
    """The rewards of an episode lie within the range.

    Raises:
        InputError: one does not; with `where`.
    """
    try:
        if episode.reward is not None:
            number(episode.reward, "reward", rules)
        numbers(list(episode.step_rewards or ()), "step_rewards", rules)
    except InputError as error:
        raise InputError(str(error), where) from error


def texts(value: Any, name: str) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"must be a list of texts, not {shown(value)}", name)
    return tuple(value)


def flag(value: Any, name: str) -> bool:
    """True or false, also as 1 or 0, and as text. Not yes or no: these are answers to questions."""
    raw, value = value, scalar(value)
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise InputError(f"must be true or false (or 1 or 0), not {shown(raw)}", name)
    return bool(value)


def count(value: Any, name: str) -> int | None:
    """A whole number from 0 on, also as text, or None where there is none."""
    if value is None:
        return None
    raw, value = value, scalar(value)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole or not 0 <= value < 2**63:
        raise InputError(f"must be a whole number from 0 on, not {shown(raw)}", name)
    return int(value)


def shown(value: Any) -> str:
    """A value for a message: what it is, and how it begins."""
    if value is None:
        return "null"
    text = repr(value)
    return f"the {type(value).__name__} {text[:40]}{'…' if len(text) > 40 else ''}"
