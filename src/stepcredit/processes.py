"""How many worker processes."""

from __future__ import annotations

import os

from stepcredit.errors import InputError


def worker_count(given: int | None) -> int:
    """How many worker processes: those asked for, or one a processor.

    Raises:
        InputError: less than one.
    """
    if given is not None and given < 1:
        raise InputError(f"{given} must be 1 or more", "workers")
    return given or os.cpu_count() or 1
