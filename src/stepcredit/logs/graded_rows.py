"""Log rows with a response and a gold answer, before and after grading."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from stepcredit.errors import InputError
from stepcredit.grading.extraction.boxes import boxed_gold
from stepcredit.grading.grade import Grade
from stepcredit.logs.columns import ImportRules, RowView, flag, shown
from stepcredit.logs.formats import Row
from stepcredit.logs.messages import turns
from stepcredit.logs.stop_reasons import cut_by_limit, cut_otherwise

ADDED = ("reward", "verdict", "extracted", "strict", "grade_reason")
"""The columns that grading adds."""
TRUNCATED = "truncated"
"""The `grade_reason` of a response cut by a length limit, which is not graded."""

_RESPONSES = ("response", "completion")
_ANSWERS = ("answer", "solution")
_STOPS = ("stop_reason", "finish_reason")
_NAMES = (*_RESPONSES, *_ANSWERS, "truncated", *_STOPS)
_PROMPTS = ("prompt", "question", "problem")


class UngradedRow(NamedTuple):
    """A response to grade, and its row.

    Attributes:
        cells: the columns of the row, as JSON values.
        response: the response of the policy.
        gold: the gold answer; empty if it cannot be parsed.
        unread: why the gold answer cannot be parsed.
        truncated: whether a length limit cut the response.
        cut: the stop reason, if a filter, an error or a cancellation cut the response.
    """

    cells: dict[str, Any]
    response: str
    gold: str
    unread: str | None
    truncated: bool
    cut: str | None = None

    @property
    def is_graded(self) -> bool:
        """Whether the response is compared with the gold answer."""
        return not self.truncated and self.cut is None and self.unread is None

    def graded(self, grade: Grade | None) -> dict[str, Any]:
        """Returns the row with its grade; None is a truncated response."""
        cells = {name: value for name, value in self.cells.items() if name not in ADDED}
        if grade is None:
            return {**cells, **dict.fromkeys(ADDED), "grade_reason": TRUNCATED}
        values = (grade.reward, str(grade.verdict), grade.extracted, grade.strict, grade.reason)
        return {**cells, **dict(zip(ADDED, values, strict=True))}


class RowReader:
    """Reader of the response, gold answer and stop reason in log rows.

    Args:
        columns: our name → the name in the log, where they differ.
        overwrite: whether rows may already have the added columns.

    Raises:
        InputError: an unknown column name.
    """

    def __init__(self, columns: Mapping[str, str], *, overwrite: bool = False) -> None:
        for ours in columns:
            if ours not in _NAMES:
                raise InputError(f"{ours!r} is none of {', '.join(_NAMES)}", "columns")
        self.columns = columns
        self._overwrite = overwrite
        self._rules = ImportRules({ours: theirs for ours, theirs in columns.items() if ours not in _ANSWERS})
        self._responses = {name: columns[name] for name in _RESPONSES if name in columns} or dict(
            zip(_RESPONSES, _RESPONSES, strict=True)
        )
        self._answers = [columns[name] for name in _ANSWERS if name in columns] or _ANSWERS

    def refuse_ours(self, row: Row) -> None:
        """Raises if a row has a column that would be overwritten."""
        taken = [] if self._overwrite else [name for name in ADDED if name in (row.data or {})]
        if taken:
            raise InputError(f"the row has {', '.join(map(repr, taken))} already; --overwrite replaces it", row.where)

    def ungraded(self, row: Row) -> UngradedRow:
        """Reads the response and gold answer of a row.

        Raises:
            InputError: the row is bad or lacks a column; with file and line.
        """
        if row.data is None:
            raise row.error or InputError("a row without data", row.where)
        try:
            view = RowView(row.data, self._rules, row.text_cells)
            response, (gold, unread) = self._response(view), self._gold(view, row.data)
            truncated = (view.has("truncated") and flag(view.take("truncated"), "truncated")) or any(
                cut_by_limit(view.take(name)) for name in _STOPS
            )
            cut = next((str(view.peek(name)) for name in _STOPS if cut_otherwise(view.peek(name))), None)
            return UngradedRow(self._cells(row.data, view, row.text_cells), response, gold, unread, truncated, cut)
        except InputError as error:
            raise InputError(str(error), row.where) from error

    def import_columns(self, row: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The `--columns` with which `stepcredit import` reads a graded row; None if it cannot."""
        response = next(theirs for theirs in self._responses.values() if row.get(theirs) is not None)
        prompt = next((name for name in _PROMPTS if isinstance(row.get(name), str | list) and row[name]), None)
        if prompt is None or isinstance(row[prompt], str) != isinstance(row[response], str):
            return None
        is_found = response == "completion" or (response == "response" and row.get("completion") is None)
        names = {
            "prompt": prompt,
            "completion": "completion" if is_found else response,
            **{name: self.columns.get(name, name) for name in ("truncated", *_STOPS)},
        }
        return tuple(f"{ours}={theirs}" for ours, theirs in names.items() if ours != theirs)

    def _response(self, view: RowView) -> str:
        name = next((name for name in self._responses if view.has(name)), None)
        if name is None:
            raise InputError(
                f"no response: expected a column {' or '.join(self._responses.values())}, with a value; the row has "
                f"{view.names()} (another name: --columns response=…)"
            )
        written = turns(view.take(name), name)
        if isinstance(written, str):
            return written
        said = [message["content"] or "" for message in written if message["role"] == "assistant"]
        if not said:
            raise InputError("no assistant message: nothing the policy wrote", name)
        return said[-1]

    def _gold(self, view: RowView, data: Mapping[str, Any]) -> tuple[str, str | None]:
        """Returns (gold answer, why it cannot be parsed); one of them is empty."""
        name = next((name for name in self._answers if view.has(name)), None)
        if name is None and any(name in data for name in self._answers):
            return "", "it is empty"
        if name is None:
            raise InputError(
                f"no gold answer: expected a column {' or '.join(self._answers)}; the row has "
                f"{view.names()} (another name: --columns answer=…)"
            )
        try:
            return gold_answer(view.take(name)), None
        except InputError as error:
            return "", error.what

    def _cells(self, data: Mapping[str, Any], view: RowView, text_cells: bool) -> dict[str, Any]:
        """The columns as JSON values; numbers, booleans and lists of CSV cells are parsed."""
        if text_cells:
            cells = RowView(data, ImportRules(), text_cells)
            renamed = {theirs: view.take(ours) for ours, theirs in self._rules.columns.items()}
            data = {name: cells.take(name) for name in data} | renamed
        plain = RowView(data, ImportRules(), text_cells=False).rest()
        return {name: plain.get(name) for name in data}


def gold_answer(value: Any) -> str:
    """Extracts the gold answer of a worked solution: the text after the last `####`, or the last `\\boxed{}`.

    Args:
        value: text, or a number; 145.0 is "145".

    Raises:
        InputError: the value is neither, or has no answer.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise InputError(f"must be text or a number, not {shown(value)}", "answer")
    if not isinstance(value, str):
        if not isinstance(value, int) and not math.isfinite(value):
            raise InputError(f"{value} is not a finite number", "answer")
        digits = format(Decimal(str(value)), "f")
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    text = value.rpartition("####")[2].strip()
    if any(command in text for command in ("\\boxed", "\\fbox", "\\framebox")):
        text = (boxed_gold(text) or "").strip()
    if not text:
        raise InputError(f"there is no answer in {shown(value)}", "answer")
    return text
