"""Files written whole or not at all, and read with errors that name the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError


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


def read_json(path: Path) -> object:
    """The content of a JSON file; NaN and Infinity are allowed.

    Raises:
        InputError: the file cannot be read, is no UTF-8 or no JSON.
    """
    try:
        payload: object = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"is no JSON ({error.msg})", f"{path}, line {error.lineno}") from error
    except UnicodeDecodeError as error:
        raise InputError("is no UTF-8 text", str(path)) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", str(path)) from error
    return payload


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file of settings.

    Raises:
        InputError: no such file, no YAML, or no mapping.
    """
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such file", str(file)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}", str(file)) from error
    if not isinstance(found, dict):
        raise InputError("a config is a mapping of settings to values", str(file))
    return found
