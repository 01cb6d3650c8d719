"""Checkpoints to resume from: the newest complete one, and errors that name a damaged file."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepcredit.errors import InputError, one_line
from stepcredit.files import read_manifest


def last_checkpoint(folder: str | Path) -> str | None:
    """Returns the newest complete `checkpoint-N` in a folder, or None.

    transformers writes `trainer_state.json` last: a checkpoint in which it is missing or truncated is incomplete.
    """
    numbered = [p for p in Path(folder).glob("checkpoint-*") if p.name.partition("-")[2].isdigit()]
    for path in sorted(numbered, key=lambda p: int(p.name.partition("-")[2]), reverse=True):
        try:
            check_state(path)
        except InputError as error:
            sys.stderr.write(f"{one_line(error)}: {path.name} is left out\n")
            continue
        return str(path)
    return None


def check_state(checkpoint: str | Path) -> None:
    """Check the file that transformers writes last into a checkpoint.

    Raises:
        InputError: it is missing, damaged or half-written.
    """
    read_manifest(Path(checkpoint) / "trainer_state.json", ("global_step", "max_steps"))


@contextmanager
def readable(checkpoint: str | Path, *files: str) -> Iterator[None]:
    """Names the checkpoint and the files where what is read from them inside is damaged.

    Raises:
        InputError: a file is cut short, is no tensor file, or holds something else.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    except (EOFError, OSError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"cannot be read ({type(error).__name__}): damaged or half-written; resume from another "
                         "checkpoint", f"{checkpoint}: {', '.join(files)}") from error  # fmt: skip
