"""Tables of what several samples are worth together, and of how a policy does by level and type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from stepcredit.report.tables import MISSING
from stepcredit.results.fields import Row, count_of, list_of, number_of, optional_number, printable, row_of


def samples_table(row: Mapping[str, Any]) -> Table | None:
    """pass@k and maj@k of a row of `results.json`; None where it has one sample a problem.

    Raises:
        InputError: the row is malformed.
    """
    if not row.get("at_k"):
        return None
    payloads = list_of(row, "at_k", "at_k")
    names = ["pass", *(["majority"] if any("majority" in row_of(p, "at_k") for p in payloads) else [])]
    table = _table("Several samples", ["k", *("pass@k %", "maj@k %")[: len(names)]])
    for k, payload in enumerate(payloads, 1):
        where = f"at_k, row {k}"
        numbers = row_of(payload, where)
        cells = [_percent(numbers, name, f"{name}_stderr", where) for name in names]
        table.add_row(str(count_of(numbers, "k", where)), *cells)
    return table


def group_tables(rows: Iterable[object]) -> list[Table]:
    """One table for each thing that the rows of `groups.json` are grouped by.

    Raises:
        InputError: a row is malformed.
    """
    grouped: dict[str, list[Row]] = {}
    for k, payload in enumerate(rows, 1):
        row = row_of(payload, f"groups.json, row {k}")
        grouped.setdefault(printable(str(row.get("by", ""))), []).append(row)
    return [_group_table(by, members) for by, members in grouped.items()]


def _group_table(by: str, rows: Sequence[Row]) -> Table:
    has_strict = any(row.get("accuracy_strict") != row.get("accuracy") for row in rows)
    table = _table(f"By {by}", [by, "problems", "accuracy %", *(["strict %"] if has_strict else [])])
    for row in rows:
        where = f"groups.json, {by} {row.get('group')}"
        strict = [_percent(row, "accuracy_strict", "stderr_strict", where)] if has_strict else []
        accuracy = _percent(row, "accuracy", "stderr", where)
        table.add_row(Text(printable(str(row.get("group")))), f"{count_of(row, 'n', where):,}", accuracy, *strict)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right", no_wrap=True)
    return table


def _percent(row: Row, name: str, stderr: str, where: str) -> str:
    spread = optional_number(row, stderr, where)
    value = 100 * number_of(row, name, where, 0.0, 1.0)
    return f"{value:.1f} ± {MISSING if spread is None else format(100 * spread, '.1f')}"
