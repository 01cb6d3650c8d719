"""Rows into a file that appears whole, by work that a kill only interrupts.

Beside OUT stand, while the work lasts:

    OUT.partial                    the rows so far, one JSON object a line
    OUT.partial.quarantine.jsonl   the bad rows so far, each with its number in the input
    OUT.partial.json               the settings: a run with others does not go on with the rows that are there

Of each chunk the bad rows are written first and the good ones then, each synced. So the good rows that are there say
how far the work has come, and every bad row before the last of them is there too. At the end OUT appears at once, as
`.jsonl` or `.jsonl.gz`, with OUT.quarantine.jsonl where rows were bad, and the rest goes away.
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
    """A path that rows can be written to.

    Raises:
        InputError: another suffix than those of `SUFFIXES`, or a folder.
    """
    path = Path(name)
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: unknown kind of file; use .jsonl or .jsonl.gz", field)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file", field)
    return path


class RowWriter:
    """Writes one file, and goes on where a killed run stopped. A context manager.

    Args:
        out: the file; its folder is made where it is missing.
        settings: all that the rows depend on, as JSON has it; a run with others is refused.
        overwrite: take the place of a file that is there.

    Attributes:
        done: rows of the input that are written, good and bad together.
        bad: how many of them were bad.
        first_bad: the first of these.

    Raises:
        InputError: on entry: the file is there already, another run is writing it, or what is there of it has other
            settings.
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
        """The good rows that are written.

        Raises:
            InputError: one is damaged.
        """
        with self._partial.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield _parsed(line, f"{self._partial}:{number}")

    def write(self, rows: Sequence[Mapping[str, Any]], bad: Sequence[Mapping[str, Any]]) -> None:
        """The good and the bad rows of one chunk.

        Args:
            rows: as JSON has them.
            bad: each with its `number` in the input, counted from 1 over good and bad rows together.
        """
        _append(self._bad_rows, bad)
        _append(self._rows, rows)
        self.done += len(rows) + len(bad)
        self.bad += len(bad)
        self.first_bad = self.first_bad or next(iter(bad), None)

    def finish(self) -> None:
        """The rows become OUT, the bad ones OUT.quarantine.jsonl; whatever a kill leaves of this is done next time."""
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
        """All that is there of OUT goes away."""
        for path in (self._partial, self._partial_quarantine, self._header):
            path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        """Keep what an earlier run wrote, up to its last good row."""
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
            raise InputError(f"was begun with {was}; delete it, or choose another --output_dir", str(self._partial))

    def _bad_before(self, good: int) -> int:
        """How many bad rows stand before the last of so many good ones; later ones are cut off, and come again."""
        kept = end = 0
        self._bad_rows.seek(0)
        for line in self._bad_rows:
            if not line.endswith(b"\n"):
                break
            entry = _parsed(line, f"{self._partial_quarantine}:{kept + 1}")
            if entry["number"] - 1 - kept >= good:
                break
            self.first_bad = self.first_bad or entry
            kept, end = kept + 1, end + len(line)
        self._bad_rows.truncate(end)
        return kept

    def _write_header(self, *, finished: bool) -> None:
        draft = self._header.with_name(f"{self._header.name}.draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"settings": self._settings, "finished": finished}, file, indent=1)
            _sync(file)
        os.replace(draft, self._header)

    def _is_published(self) -> bool:
        """Whether a run was killed after OUT had appeared and before all the rest had gone."""
        if not self._header.exists() or self._partial.exists():
            return False
        return bool(_parsed(self._header.read_bytes(), str(self._header))["finished"])

    def _settle(self) -> None:
        """The last steps, each of which may have been done: the bad rows get their place, the header goes."""
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
        """Close the files; where no good row was written, nothing stays."""
        self._bad_rows.close()
        if not _size(self._rows):
            self.discard()
        self._rows.close()


def _locked(path: Path) -> IO[bytes]:
    """The file, for this process alone."""
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InputError("another run is writing this file", str(path)) from error
    return file


def _append(file: IO[bytes], items: Iterable[Mapping[str, Any]]) -> None:
    """Lines that are on the disk when this returns."""
    file.write(b"".join(json.dumps(item, ensure_ascii=False, allow_nan=False).encode() + b"\n" for item in items))
    _sync(file)


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _whole_lines(file: IO[bytes]) -> int:
    """How many lines there are; a last one that is torn is cut off."""
    lines = end = 0
    file.seek(0)
    for line in file:
        if line.endswith(b"\n"):
            lines, end = lines + 1, end + len(line)
    file.truncate(end)
    return lines


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError("is damaged; delete it, and what stands beside it", where) from error
    if not isinstance(found, dict):
        raise InputError("is damaged; delete it, and what stands beside it", where)
    return found


def _write_gzip(draft: Path, source: Path) -> None:
    """The same lines always give the same bytes: no name and no time."""
    with source.open("rb") as lines, draft.open("wb") as file:
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
            shutil.copyfileobj(lines, packed, 1 << 20)
        _sync(file)
