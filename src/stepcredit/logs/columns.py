"""Mapping of log columns to stepcredit's column names, and validation of values."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError

_LISTS = ("messages", "completions", "labels", "steps", "step_rewards", "tools")
"""Columns of lists, stored as JSON text in CSV cells and in some logs of other formats."""
_NUMBERS = ("reward", "label", "sample", "prompt_messages", "truncated")
_TURNS = ("prompt", "completion", "response")
COLUMNS = (*_TURNS, *_LISTS, *_NUMBERS, "system", "prompt_id", "stop_reason", "finish_reason", "verdict")
"""The columns with a meaning; all others are metadata."""
_MEANT = frozenset(COLUMNS)
_ALIASES = {"messages": "conversations"}
_OTHER_NAMES = {
    "prompt": ("question", "problem", "query"),
    "completion": ("output", "generation", "generated_text", "answer_text", "model_output", "solution"),
    "reward": ("score", "acc", "accuracy", "rewards", "return"),
    "label": ("correct", "is_correct", "is_right", "success", "passed"),
}
"""Common names of columns, suggested in errors but not read by default: an `output` may be a gold answer."""
_WORDS = {"right": True, "correct": True, "wrong": False, "incorrect": False}
_ANSWERS = {"yes": True, "no": False}
"""Words of labels; these only in a column that was named as the label, as they may be answers."""


@dataclass(frozen=True)
class ImportRules:
    """Rules for reading rows.

    Attributes:
        columns: our name → the name in the log, where they differ.
        reward_range: closed interval of valid rewards and step labels.
        chat: whether prompt and completion in plain text are a message of the user and one of the assistant.

    Raises:
        InputError: an unknown column name, or an empty range.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    reward_range: tuple[float, float] = (0.0, 1.0)
    chat: bool = False

    @classmethod
    def of_range(
        cls, ends: Sequence[float], columns: Mapping[str, str] | None = None, chat: bool = False
    ) -> ImportRules:
        """Builds rules from the reward range of a setting.

        Raises:
            InputError: the range does not have two ends.
        """
        if len(ends) != 2:
            raise InputError("give the lowest and then the highest reward", "reward_range")
        return cls(columns or {}, (ends[0], ends[1]), chat)

    def __post_init__(self) -> None:
        for ours in self.columns:
            if ours not in COLUMNS:
                turned = self.columns[ours] in COLUMNS
                hint = f"did you mean {self.columns[ours]}={ours}? ours comes first; " if turned else ""
                raise InputError(f"{hint}{ours!r} is none of {', '.join(COLUMNS)}", "columns")
        if not self.reward_range[0] < self.reward_range[1]:
            raise InputError("give the lowest and then the highest reward", "reward_range")


class _Names(dict[str, str | None]):
    """The name in the log of each of our columns, None where the log has none; found when it is first asked for.

    Args:
        columns: the columns of a row.
        mapping: our name → the name in the log, where they differ.

    Raises:
        InputError: the mapping names a column that the row does not have, or the row is a stored episode.
    """

    def __init__(self, columns: tuple[str, ...], mapping: Mapping[str, str]) -> None:
        self._columns, self._mapping = frozenset(columns), mapping
        for theirs in mapping.values():
            if theirs not in self._columns:
                raise InputError(f"no column {theirs!r}; the row has {_listed(columns)}", "columns")
        if self._columns >= {"format", "ids", "action_mask"}:
            raise InputError("this is a shard of stored episodes already; it needs no import")

    def __missing__(self, name: str) -> str | None:
        found = _ALIASES.get(name) if name not in self._columns else name
        is_free = found in self._columns and found not in self._mapping.values()
        self[name] = self._mapping.get(name, found if is_free else None)
        return self[name]


@lru_cache(maxsize=64)
def _names(columns: tuple[str, ...], mapping: tuple[tuple[str, str], ...]) -> _Names:
    """The names of a row, which most rows of a log share."""
    return _Names(columns, dict(mapping))


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(repr, columns)) or "no columns"


class RowView:
    """View of a row under our column names; records the columns that were taken."""

    def __init__(self, data: Mapping[str, Any], rules: ImportRules, text_cells: bool) -> None:
        self._data, self._text_cells, self._mapping = data, text_cells, rules.columns
        self._theirs = _names(tuple(data), tuple(rules.columns.items()))
        self._taken: set[str | None] = set()

    def names(self) -> str:
        """The column names of the row, for messages."""
        return _listed(self._data)

    def renaming(self, *ours: str) -> str:
        """The `--columns` setting that maps columns of the row to ours, guessed from their names, with those given."""
        return self._setting({name: self._guess(name) or "…" for name in ours})

    def outcome_name(self) -> str:
        """`label` where a column looks like one, else `reward`."""
        return "reward" if self._guess("reward") or not self._guess("label") else "label"

    def _guess(self, name: str) -> str | None:
        return next((n for n in _OTHER_NAMES.get(name, ()) if n in self._data), None)

    def label(self) -> bool:
        """Returns the label and excludes its column from the metadata.

        Raises:
            InputError: it is not true or false, nor a word for right or wrong.
        """
        raw, is_named = self.take("label"), "label" in self._mapping
        words = _WORDS | (_ANSWERS if is_named else {})
        if (found := of_word(raw, words)) is not None:
            return found
        if of_word(raw, _ANSWERS) is not None:
            raise InputError(
                f"{raw!r} may be an answer; if it is the verdict: {self._setting({'label': self._theirs['label']})}",
                "label",
            )
        return flag(raw, "label", f"true, false, 1, 0, {', '.join(words)}")

    def _setting(self, more: Mapping[str, str | None]) -> str:
        return "--columns " + " ".join(f"{ours}={theirs}" for ours, theirs in {**self._mapping, **more}.items())

    def has(self, name: str) -> bool:
        """Whether the column has a value; an empty CSV cell is a value only for responses."""
        theirs = self._theirs[name]
        if theirs is None or self._data[theirs] is None:
            return False
        return not self._text_cells or not self._is_empty(name, self._data[theirs])

    def _is_empty(self, name: str, value: Any) -> bool:
        return value is None or (self._text_cells and name not in ("completion", "response") and value.strip() == "")

    def take(self, name: str) -> Any:
        """Returns the value of a column, or None, and excludes the column from the metadata."""
        self._taken.add(self._theirs[name])
        return self.peek(name)

    def peek(self, name: str) -> Any:
        """Returns the value of a column, or None."""
        theirs = self._theirs[name]
        if theirs is None:
            return None
        value = self._data[theirs]
        if isinstance(value, str):
            return _from_text(name, value, self._text_cells)
        return value if value is None else unboxed(value)

    def rest(self) -> dict[str, Any]:
        """The columns that were not taken, as JSON values."""
        return {
            k: _as_plain(v, k)
            for k, v in self._data.items()
            if k not in self._taken and (k not in _MEANT or not self._is_empty(k, v))
        }


def _from_text(name: str, text: str, is_cell: bool) -> Any:
    """Converts text to the type of its column; text that cannot be converted is returned, and rejected later.

    Args:
        name: our column name.
        text: the value.
        is_cell: whether it is a CSV cell, in which chat messages are JSON and an empty cell is None.
    """
    if name in _LISTS or (is_cell and name in _TURNS and text.lstrip().startswith("[{")):
        return from_json(text)
    if is_cell and name not in _TURNS and not text.strip():
        return None
    return scalar(text) if is_cell and name in _NUMBERS else text


def from_json(text: str) -> Any:
    """Parses JSON text; blank text is None, and invalid JSON is returned unchanged."""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def scalar(value: Any) -> Any:
    """Converts text that is true, false or a number; other values are returned unchanged."""
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
    """Converts scalars, arrays and tensors of numpy and torch to Python values."""
    return value.tolist() if hasattr(value, "tolist") else value


def _as_plain(value: Any, column: str) -> Any:
    """Converts a value to JSON types: non-finite numbers become null, dates and decimals text."""
    if value is None or isinstance(value, str | int):
        return value
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
    """Validates a reward: a finite number within the range, or a boolean; also as text."""
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
    """Validates a list of rewards."""
    if not isinstance(value, list):
        raise InputError(f"must be a list of numbers, not {shown(value)}", name)
    return tuple(number(item, f"{name}[{k}]", rules) for k, item in enumerate(value))


def check_rewards(episode: Episode, rules: ImportRules, where: str) -> None:
    """Checks that the rewards of an episode are within the range.

    Raises:
        InputError: a reward is outside; with `where`.
    """
    try:
        if episode.reward is not None:
            number(episode.reward, "reward", rules)
        numbers(list(episode.step_rewards or ()), "step_rewards", rules)
    except InputError as error:
        raise InputError(str(error), where) from error


def texts(value: Any, name: str) -> tuple[str, ...]:
    """Validates a list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"must be a list of texts, not {shown(value)}", name)
    return tuple(value)


def of_word(value: Any, words: Mapping[str, bool] = _WORDS) -> bool | None:
    """Returns whether a word, of any case, says right or wrong; None if it is none of them."""
    return words.get(value.strip().lower()) if isinstance(value, str) else None


def flag(value: Any, name: str, known: str = "true or false (or 1 or 0)") -> bool:
    """Validates a boolean: true or false, also as 1 or 0 and as text; `known` says in an error what is taken."""
    raw, value = value, scalar(value)
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise InputError(f"must be {known}, not {shown(raw)}", name)
    return bool(value)


def count(value: Any, name: str) -> int | None:
    """Validates a non-negative integer, also as text; None stays None."""
    if value is None:
        return None
    raw, value = value, scalar(value)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole or not 0 <= value < 2**63:
        raise InputError(f"must be a whole number from 0 on, not {shown(raw)}", name)
    return int(value)


def shown(value: Any) -> str:
    """Describes a value for a message: its type and beginning."""
    if value is None:
        return "null"
    text = repr(value)
    return f"the {type(value).__name__} {text[:40]}{'…' if len(text) > 40 else ''}"
