"""Result files: rows that say what was measured, how, and how sure one can be."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepcredit.report import rows
from stepcredit.version import __version__

SAMPLING = ("temperature", "top_p", "top_k")
"""Settings of sampling that a row tells where they are not the plain ones."""
IDENTITY = (
    *("task", "split", "method", "search", "width", *SAMPLING, "seed", "policy", "value"),
    *("metric", "at", "by", "group"),
)
"""What tells rows apart: a new row replaces an old one that agrees in all of these."""


def write_json(path: Path, data: Any) -> None:
    """JSON, whole or not at all, readable and in a fixed order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    os.replace(part, path)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(part, path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a result file; none where there is no file.

    Raises:
        InputError: the file is no list of objects.
    """
    return [dict(rows.row_of(row, f"{path}, row {k}")) for k, row in enumerate(rows.read_rows(path) or [], 1)]


def add_rows(path: Path, new: Sequence[dict[str, Any]]) -> None:
    """Rows into a result file; a row measured again takes the place of the old one."""
    kept = {_identity(row): row for row in read_rows(path)}
    kept.update({_identity(row): row for row in new})
    write_json(path, list(kept.values()))


def _identity(row: dict[str, Any]) -> str:
    return json.dumps([row.get(name) for name in IDENTITY])


@dataclass
class Stopwatch:
    """Seconds by phase, kept apart from results so that these are the same at every run."""

    phases: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times what happens inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.phases.append({"phase": name, "seconds": round(time.perf_counter() - start, 2)})


def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    import torch
    import transformers

    return {
        "stepcredit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
