"""Checkpoints: marked once they are whole, checked before they are resumed from.

transformers writes `checkpoint-N` in place, file by file. `whole.json` is written after that, and after all of it is on
disk: size and hash of every file, and the run that the checkpoint is of. A checkpoint without it, with files that
differ, or of another run is not resumed from.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError, one_line
from stepcredit.files import changed_settings, read_manifest, sync_all, write_json
from stepcredit.training.resuming.run_identity import END

WHOLE = "whole.json"
_OTHERS = "resume from another checkpoint"
_NAMES = {"number of items per step": "per_device_train_batch_size × gradient_accumulation_steps × number of processes"}
"""What a run is known by → the settings that it comes from."""


def mark_whole(checkpoint: Path, run: Mapping[str, Any]) -> None:
    """Syncs a checkpoint and marks it as whole.

    Args:
        checkpoint: its folder.
        run: see `run_identity`.
    """
    sync_all(checkpoint)
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != WHOLE)
    files = {str(path.relative_to(checkpoint)): [path.stat().st_size, _hash(path)] for path in paths}
    write_json(checkpoint / WHOLE, {"run": run, "files": files})


def check_checkpoint(checkpoint: str | Path, run: Mapping[str, Any] | None = None) -> None:
    """Checks that a checkpoint is whole and, if a run is given, of it; a longer run may go on from a shorter one's.

    Raises:
        InputError: it is incomplete, a file of it is damaged, or it is of another run.
    """
    kept = _run_of_whole(Path(checkpoint))
    if run is not None:
        check_run(Path(checkpoint), kept, run)


def _run_of_whole(folder: Path) -> dict[str, Any]:
    """Returns the run of a checkpoint after checking all its files; raises InputError if it is not whole."""
    if not (folder / WHOLE).is_file():
        raise InputError(f"is incomplete, without the {WHOLE} that is written last; {_OTHERS}", str(folder))
    mark = read_manifest(folder / WHOLE, ("run", "files"))
    try:
        run = dict(mark["run"])
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in mark["files"].items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"is damaged; {_OTHERS}", str(folder / WHOLE)) from error
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{name} is missing; {_OTHERS}", str(folder))
        if path.stat().st_size != size or _hash(path) != digest:
            raise InputError(f"{name} is damaged; {_OTHERS}", str(folder))
    read_manifest(folder / "trainer_state.json", ("global_step", "max_steps", "epoch"))
    return run


def check_run(folder: Path, kept: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Checks that what a folder holds is of a run, but for its `END`; returns the settings of that which differ.

    Raises:
        InputError: it is of another run.
    """
    changed = changed_settings(kept, run)
    if another := [name for name in changed if name not in END]:
        raise InputError(
            f"is of a run with another {_in_words(another, kept, run)}; choose another --output_dir, or start over "
            "with --resume_from_checkpoint false",
            str(folder),
        )
    return changed


def _in_words(changed: list[str], kept: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Names what differs between two runs, numbers with their values; the settings of another method differ anyway."""
    if "method" in changed:
        return "method"
    words = []
    for name in changed:
        values = [kept.get(name), run.get(name)]
        are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        words.append(_NAMES.get(name, name) + (f" ({values[0]} there, {values[1]} here)" if are_numbers else ""))
    return ", ".join(words)


def last_checkpoint(
    folder: str | Path, run: Mapping[str, Any] | None = None, last_step: int | None = None
) -> str | None:
    """Returns the newest whole `checkpoint-N` of a run in a folder, or None; says why newer ones are left out.

    Args:
        folder: the output folder.
        run: see `run_identity`; None: of any run.
        last_step: the step at which the run ends; None: anywhere.

    Raises:
        InputError: there are whole checkpoints, but all of another run.
    """
    numbered = [p for p in Path(folder).glob("checkpoint-*") if p.name.partition("-")[2].isdigit()]
    of_another: InputError | None = None
    for path in sorted(numbered, key=_number, reverse=True):
        if last_step is not None and _number(path) > last_step:
            sys.stderr.write(f"{path}: is past the {last_step} steps of this run: {path.name} is left out\n")
            continue
        try:
            kept = _run_of_whole(path)
        except InputError as error:
            sys.stderr.write(f"{one_line(error)}: {path.name} is left out\n")
            continue
        try:
            if run is not None:
                check_run(path, kept, run)
        except InputError as error:
            sys.stderr.write(f"{path}: {error.what.partition(';')[0]}: {path.name} is left out\n")
            of_another = of_another or error
            continue
        return str(path)
    if of_another is not None:
        raise of_another
    return None


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
        raise InputError(f"cannot be read ({type(error).__name__}): damaged or half-written; {_OTHERS}",
                         f"{checkpoint}: {', '.join(files)}") from error  # fmt: skip
