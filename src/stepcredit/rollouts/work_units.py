"""Work units: long work in fixed pieces, each written whole or done again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepcredit.episodes.delimiters import COLLECTED
from stepcredit.errors import InputError
from stepcredit.files import write_json
from stepcredit.tasks.task import Problem

UNIT_ROWS = 512
"""Responses of one work unit, about: a unit is written whole or drawn again."""


def work_units(problems: Sequence[Problem], samples: int, rows: int | None = None) -> list[Sequence[Problem]]:
    """Problems in fixed groups of about `rows` responses (`UNIT_ROWS`): the same at every run."""
    size = max(1, (rows or UNIT_ROWS) // samples)
    return [problems[i : i + size] for i in range(0, len(problems), size)]


def resume(out: Path, asked: dict[str, Any]) -> int:
    """How many units are in a folder already, as `units_there`; from now on the folder says what it is made with."""
    done = units_there(out, asked)
    if not (out / COLLECTED).exists():
        write_json(out / COLLECTED, asked)
    return done


def units_there(out: Path, asked: dict[str, Any]) -> int:
    """How many units are in a folder already; writes nothing.

    Raises:
        InputError: the folder was made with other settings, or holds something else.
    """
    manifest = out / COLLECTED
    if manifest.exists():
        found = json.loads(manifest.read_text(encoding="utf-8"))
        changed = sorted(k for k in asked if found.get(k) != asked[k])
        if changed:
            raise InputError(f"was collected with another {', '.join(changed)}; choose another --output_dir", str(out))
        return len(list(out.glob("episodes-*.parquet")))
    if out.exists() and any(out.iterdir()):
        raise InputError("is not empty and was not collected here; choose another --output_dir", str(out))
    return 0
