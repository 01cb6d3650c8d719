"""A JSON Lines file that is made batch by batch; a killed run loses at most the batch in flight."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError
from stepcredit.files import changed_settings, locked, read_manifest, why_not_written, write_json, write_lines

_SETTINGS, _BATCHES = "settings.json", "batches.jsonl"


class BatchFile:
    """Rows on their way to a file: whole batches are kept in the folder `FILE.unfinished` until all are there.

    Use `batch_file` to make one.

    Attributes:
        batches: number of batches that are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _BATCHES
        whole = self._path.read_bytes() if self._path.exists() else b""
        whole = whole[: whole.rfind(b"\n") + 1]  # a kill may have cut the last line
        if self._path.exists():
            os.truncate(self._path, len(whole))
        self.batches = whole.count(b"\n")

    def keep(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keeps a batch, on disk.

        Raises:
            InputError: it cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(why_not_written(error), str(self._path)) from error
        self.batches += 1

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields the rows of all batches."""
        if not self.batches:
            return
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                yield from json.loads(line)

    def is_whole(self, path: Path) -> bool:
        """Whether a file is what the kept batches make: a kill after it was written left them here."""
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows())
        return self.batches > 0 and path.read_bytes() == "".join(lines).encode()


@contextmanager
def batch_file(path: Path, settings: dict[str, Any], doing: str) -> Iterator[BatchFile]:
    """Context manager of writing a file of rows; the file appears, whole, at the end of the block.

    Args:
        path: the new file.
        settings: settings that determine the rows; what other settings have begun is not gone on with.
        doing: see `files.locked`.

    Raises:
        InputError: the file exists, was begun with other settings or by a process that still writes, or cannot be
            written.
    """
    folder = path.with_name(f"{path.name}.unfinished")
    try:
        with locked(folder, doing):
            kept = _begun(path, folder, settings)
            try:
                yield kept
                write_lines(path, kept.rows())
                (folder / _BATCHES).unlink(missing_ok=True)
            finally:
                if not (folder / _BATCHES).exists():
                    (folder / _SETTINGS).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # not empty, or gone with the lock
            folder.rmdir()


def _begun(path: Path, folder: Path, settings: dict[str, Any]) -> BatchFile:
    """Checks what is there, and writes the settings."""
    manifest, kept = folder / _SETTINGS, BatchFile(folder)
    if path.exists() and not kept.is_whole(path):
        if not kept.batches:  # a kill at the very end has left the settings
            manifest.unlink(missing_ok=True)
        raise InputError("exists already; choose another --output", str(path))
    if not manifest.exists():
        write_json(manifest, settings)
    elif changed := changed_settings(read_manifest(manifest), settings):
        raise InputError(f"was begun with another {', '.join(changed)}; remove the folder, or choose another --output",
                         str(folder))  # fmt: skip
    return kept
