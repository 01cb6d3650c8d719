"""One malformed input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Damage = Callable[[Path], object]
"""Changes the materials in a folder."""


@dataclass(frozen=True)
class Case:
    """A command, or a call in Python, that must be refused in one line.

    Attributes:
        kind: what is wrong, as the table names it.
        name: which variant.
        command: the arguments of `stepcredit`, run in a folder of the materials; or
        call: a function of no arguments, run there.
        damage: done to the materials before.
        file_limit: bytes that a file may have, as on a full disk.
        says: what the line must contain: the field, the file, the right name.
        leaves: names of files and folders that it may leave, such as the curve of a training that began.
    """

    kind: str
    name: str
    command: Sequence[str] = ()
    call: Callable[[], Any] | None = None
    damage: Damage | None = None
    file_limit: int | None = None
    says: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
