"""Lazy import of the `alfworld` package."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError

DATA = "ALFWORLD_DATA"
"""Environment variable of the alfworld package: the folder of games."""
_NEWEST_PYTHON = (3, 12)


def alfworld_module(name: str) -> Any:
    """Imports a module that the extra installs: `alfworld.gen.constants`, `textworld`, …

    The package sets `$ALFWORLD_DATA` to a default folder if it is unset; this is undone.

    Raises:
        InputError: Python is too new for the engine, or the extra is not installed.
    """
    if sys.version_info[:2] > _NEWEST_PYTHON:
        raise InputError(
            f"the engine needs Python 3.11 or 3.12, not {sys.version_info[0]}.{sys.version_info[1]}", "alfworld"
        )
    chosen = DATA in os.environ
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"needs the extra: pip install 'stepcredit[alfworld]' ({error})", "alfworld") from error
    finally:
        if not chosen:
            os.environ.pop(DATA, None)


def shipped(*parts: str) -> Path:
    """Path of a file or folder in the alfworld package.

    Raises:
        InputError: as `alfworld_module`.
    """
    return Path(alfworld_module("alfworld").__file__).parent.joinpath(*parts)
