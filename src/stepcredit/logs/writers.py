"""Atomic, resumable row writer.

Until OUT is complete, these files are next to it:

    OUT.partial                    the rows so far, one JSON object per line
    OUT.partial.quarantine.jsonl   the bad rows so far, each with its number in the input
    OUT.partial.json               the settings; a run with different settings is refused

The bad rows of each chunk are written and synced before the good ones. The good rows therefore determine the progress,
and all bad rows before the last good one are on disk. At the end OUT appears atomically, as `.jsonl` or `.jsonl.gz`,
with OUT.quarantine.jsonl if rows were bad, and the partial files are deleted.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from stepcredit.errors import InputError

SUFFIXES = (".jsonl", ".jsonl.gz")
_GZIP_LEVEL = 6


def output_path(name: str, field: str = "output") -> Path:
    """Validates the path of an output file.

    Raises:
        InputError: the suffix is not in `SUFFIXES`, or the path is a folder.
    """
    path = Path(name)
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: unknown kind of file; use .jsonl or .jsonl.gz", field)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file", field)
    return path


class RowWriter:
    """Writer of one file that resumes an interrupted run. A context manager.

    Args:
        out: the file; its folder is created if missing.
        settings: JSON settings that determine the rows; a resumed run must have the same.
        overwrite: whether to replace an existing file.

    Attributes:
        done: number of input rows written, good and bad.
        bad: number of bad rows.
        first_bad: the first bad row.

    Raises:
        InputError: on entry: the file exists, another run is writing it, or its partial file has different settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.out = out
        self.quarantine = out.with_name(f"{out.name}.quarantine.jsonl")
        self._partial = out.with_name(f"{out.name}.partial")
        self._partial_quarantine = out.with_name(f"{out.name}.partial.quarantine.jsonl")
        self._header = out.with_name(f"{out.name}.partial.json")
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._overwrite = overwrite
        self.done = self.bad = 0
        self.first_bad: Mapping[str, Any] | None = None

    def __enter__(self) -> RowWriter:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self._is_published():
            self._settle()
        if not self._overwrite and not (self._partial.exists() and self._partial.stat().st_size):
            for path in (self.out, self.quarantine):
                if path.exists():
                    raise InputError(f"{path} is there already; --overwrite replaces it", "output")
        self._rows = _locked(self._partial)
        self._bad_rows = self._partial_quarantine.open("a+b")
        try:
            self._go_on()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def kept(self) -> Iterator[dict[str, Any]]:
        """Yields the good rows written so far.

        Raises:
            InputError: a row is damaged.
        """
        with self._partial.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield _parsed(line, f"{self._partial}:{number}")

    def write(self, rows: Sequence[Mapping[str, Any]], bad: Sequence[Mapping[str, Any]]) -> None:
        """Writes the good and the bad rows of one chunk.

        Args:
            rows: good rows, as JSON values.
            bad: bad rows, each with its `number` in the input, counted from 1 over good and bad rows.
        """
        _append(self._bad_rows, bad)
        _append(self._rows, rows)
        self.done += len(rows) + len(bad)
        self.bad += len(bad)
        self.first_bad = self.first_bad or next(iter(bad), None)

    def finish(self) -> None:
        """Publishes OUT and OUT.quarantine.jsonl; if interrupted, the next run completes it."""
        ready = draft = self._partial.with_name(f"{self._partial.name}.draft")
        try:
            if self.out.name.lower().endswith(".gz"):
                _write_gzip(draft, self._partial)
            else:
                ready = self._partial
            self._write_header(finished=True)
            os.replace(ready, self.out)
        finally:
            draft.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        self._settle()

    def discard(self) -> None:
        """Deletes the partial files of OUT."""
        for path in (self._partial, self._partial_quarantine, self._header):
            path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        """Resumes an earlier run after its last good row."""
        if _size(self._rows):
            self._check_header()
        good = _whole_lines(self._rows)
        if not good:
            self._bad_rows.truncate(0)
            self._write_header(finished=False)
            return
        self.bad = self._bad_before(good)
        self.done = good + self.bad

    def _check_header(self) -> None:
        if not self._header.exists():
            raise InputError(f"is there without {self._header.name}; delete it", str(self._partial))
        found = _parsed(self._header.read_bytes(), str(self._header))["settings"]
        changed = [k for k in {**found, **self._settings} if found.get(k) != self._settings.get(k)]
        if changed:
            was = ", ".join(f"{k} {found.get(k)} (now {self._settings.get(k)})" for k in changed)
            raise InputError(f"was begun with {was}; delete it, or choose another --output", str(self._partial))

    def _bad_before(self, good: int) -> int:
        """Counts the bad rows before the last good one; later bad rows are removed and will be written again."""
        count = end = 0
        self._bad_rows.seek(0)
        for line in self._bad_rows:
            if not line.endswith(b"\n"):
                break
            entry = _parsed(line, f"{self._partial_quarantine}:{count + 1}")
            if entry["number"] - 1 - count >= good:
                break
            self.first_bad = self.first_bad or entry
            count, end = count + 1, end + len(line)
        self._bad_rows.truncate(end)
        return count

    def _write_header(self, *, finished: bool) -> None:
        draft = self._header.with_name(f"{self._header.name}.draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"settings": self._settings, "finished": finished}, file, indent=1)
            _sync(file)
        os.replace(draft, self._header)

    def _is_published(self) -> bool:
        """Whether a run was killed after OUT appeared and before its partial files were deleted."""
        if not self._header.exists() or self._partial.exists():
            return False
        return bool(_parsed(self._header.read_bytes(), str(self._header))["finished"])

    def _settle(self) -> None:
        """Completes the publication, idempotently: moves the bad rows and deletes the header."""
        if self._partial_quarantine.exists():
            if self._partial_quarantine.stat().st_size:
                os.replace(self._partial_quarantine, self.quarantine)
            else:
                self.quarantine.unlink(missing_ok=True)
                self._partial_quarantine.unlink()
        self._header.unlink()
        descriptor = os.open(self.out.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _leave(self) -> None:
        """Closes the files, and deletes them if no good row was written."""
        self._bad_rows.close()
        if not _size(self._rows):
            self.discard()
        self._rows.close()


def _locked(path: Path) -> IO[bytes]:
    """Opens the file with an exclusive lock."""
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InputError("another run is writing this file", str(path)) from error
    return file


def _append(file: IO[bytes], items: Iterable[Mapping[str, Any]]) -> None:
    """Appends JSON lines and syncs them to disk."""
    file.write(b"".join(json.dumps(item, ensure_ascii=False, allow_nan=False).encode() + b"\n" for item in items))
    _sync(file)


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _whole_lines(file: IO[bytes]) -> int:
    """Counts the complete lines and removes an incomplete last one."""
    lines = end = 0
    file.seek(0)
    for line in file:
        if line.endswith(b"\n"):
            lines, end = lines + 1, end + len(line)
    file.truncate(end)
    return lines


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError("is damaged; delete it and the partial files next to it", where) from error
    if not isinstance(row, dict):
        raise InputError("is damaged; delete it and the partial files next to it", where)
    return row


def _write_gzip(draft: Path, source: Path) -> None:
    """Compresses deterministically: without file name and time."""
    with source.open("rb") as lines, draft.open("wb") as file:
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
            shutil.copyfileobj(lines, packed, 1 << 20)
        _sync(file)
