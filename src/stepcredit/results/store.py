"""Result files: rows that say what was measured, how, and how sure one can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepcredit.files import locked, write_json
from stepcredit.results import fields

SAMPLING = ("temperature", "top_p", "top_k")
"""Settings of sampling that a row tells where they are not the plain ones."""
IDENTITY = (
    *("task", "split", "method", "search", "width", *SAMPLING, "seed", "policy", "value"),
    *("metric", "at", "by", "group"),
)
"""What tells rows apart: a new row replaces an old one that agrees in all of these."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a result file; none where there is no file.

    Raises:
        InputError: the file is no list of objects.
    """
    return [dict(fields.row_of(row, f"{path}, row {k}")) for k, row in enumerate(fields.read_rows(path) or [], 1)]


def add_rows(path: Path, new: Sequence[dict[str, Any]]) -> None:
    """Rows into a result file; a row measured again takes the place of the old one. Of several writers each waits."""
    with locked(path.parent, "adding rows", wait=60):
        kept = {_identity(row): row for row in read_rows(path)}
        kept.update({_identity(row): row for row in new})
        write_json(path, list(kept.values()))


def _identity(row: dict[str, Any]) -> str:
    return json.dumps([row.get(name) for name in IDENTITY])
