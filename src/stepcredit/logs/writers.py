"""Rows into a file that appears whole, by work that a kill only interrupts.

Beside OUT stand, while the work lasts:

    OUT.partial                    the rows so far, one JSON object a line
    OUT.partial.quarantine.jsonl   the bad rows so far, each with its number in the input
    OUT.partial.json               what was asked for: nothing else goes on with the rows that are there

Of each chunk the bad rows are written first and the good ones then, each synced. So the good rows that are there say
how far the work has come, and every bad row before the last of them is there too. At the end OUT appears at once, as
`.jsonl`, `.jsonl.gz` or `.parquet`, with OUT.quarantine.jsonl where rows were bad, and the rest goes away.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from stepcredit.errors import InputError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_ROWS_PER_GROUP = 1024
_GZIP_LEVEL = 6


def output_path(name: str, field: str = "output") -> Path:
    """A path that rows can be written to.

    Raises:
        InputError: another suffix than those of `SUFFIXES`, or a folder.
    """
    path = Path(name)
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: unknown kind of file; use .jsonl, .jsonl.gz or .parquet", field)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file", field)
    return path


class RowWriter:
    """Writes one file, and goes on where a killed run stopped. A context manager.

    Args:
        out: the file; its folder is made where it is missing.
        asked: all that the rows depend on, as JSON has it; a run that asks for something else is refused.
        types: column → Arrow type, of columns whose type is known even where all their values are null; they are
            written last. The other types of a Parquet file are found in the rows.
        overwrite: take the place of a file that is there.

    Attributes:
        done: rows of the input that are written, good and bad together.
        bad: how many of them were bad.
        first_bad: the first of these.

    Raises:
        InputError: on entry: the file is there already, another run is writing it, or what is there of it was asked
            for differently.
    """

    def __init__(
        self, out: Path, asked: Mapping[str, Any], types: Mapping[str, Any] | None = None, *, overwrite: bool = False
    ) -> None:
        self.out = out
        self.quarantine = out.with_name(f"{out.name}.quarantine.jsonl")
        self._partial = out.with_name(f"{out.name}.partial")
        self._partial_quarantine = out.with_name(f"{out.name}.partial.quarantine.jsonl")
        self._header = out.with_name(f"{out.name}.partial.json")
        self._asked: dict[str, Any] = json.loads(json.dumps(asked))
        self._columns = ParquetColumns(types or {}) if out.name.lower().endswith(".parquet") else None
        self._overwrite = overwrite
        self.done = self.bad = 0
        self.first_bad: Mapping[str, Any] | None = None

    def __enter__(self) -> RowWriter:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self._is_published():
            self._settle()
        if not (self._overwrite or self._is_begun()):
            self._refuse_existing()
        self._rows = _locked(self._partial)
        self._bad_rows = self._partial_quarantine.open("a+b")
        try:
            self._go_on()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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

        Raises:
            InputError: OUT is a Parquet file, and a column's values are of several kinds; nothing of the chunk is
                written.
        """
        if self._columns is not None:
            self._columns.add(rows)
        _append(self._bad_rows, bad)
        _append(self._rows, rows)
        self.done += len(rows) + len(bad)
        self.bad += len(bad)
        self.first_bad = self.first_bad or next(iter(bad), None)

    def finish(self) -> None:
        """The rows become OUT, the bad ones OUT.quarantine.jsonl; whatever a kill leaves of this is done next time."""
        ready = draft = self._partial.with_name(f"{self._partial.name}.draft")
        try:
            if self._columns is not None:
                _write_parquet(draft, self.kept(), self._columns)
            elif self.out.name.lower().endswith(".gz"):
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

    def _is_begun(self) -> bool:
        return self._partial.exists() and self._partial.stat().st_size > 0

    def _refuse_existing(self) -> None:
        for path in (self.out, self.quarantine):
            if path.exists():
                raise InputError(f"{path} is there already; --overwrite replaces it", "output")

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
        if self._columns is not None:
            kept = self.kept()
            while chunk := list(islice(kept, _ROWS_PER_GROUP)):
                self._columns.add(chunk)

    def _check_header(self) -> None:
        if not self._header.exists():
            raise InputError(f"is there without {self._header.name}; delete it", str(self._partial))
        found = _parsed(self._header.read_bytes(), str(self._header))["asked"]
        changed = [k for k in {**found, **self._asked} if found.get(k) != self._asked.get(k)]
        if changed:
            was = ", ".join(f"{k} {found.get(k)} (now {self._asked.get(k)})" for k in changed)
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
            json.dump({"asked": self._asked, "finished": finished}, file, indent=1)
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


# ---- Parquet -----------------------------------------------------------------------------------------

Kind: TypeAlias = str | list[Any] | dict[str, Any]
"""What a column holds: a scalar's name, `[kind]` for lists, `{key: kind}` for objects."""

_SCALARS: dict[str, Any] = {
    "null": pa.null(),
    "booleans": pa.bool_(),
    "whole numbers": pa.int64(),
    "numbers": pa.float64(),
    "text": pa.string(),
}


class ParquetColumns:
    """The columns of a Parquet file, found in rows of JSON values one chunk after the other.

    Whole numbers and others are numbers together; objects have all the keys that one of them has. Arrow's own
    inference is not used: it looks at the first values only, and cuts 2.5 to 2 where the first was 3.

    Args:
        types: column → Arrow type of known columns, which come last.
    """

    def __init__(self, types: Mapping[str, Any]) -> None:
        self._types = types
        self._kinds: dict[str, Kind] = {}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take these rows into account.

        Raises:
            InputError: a column holds what no column of one type can.
        """
        for row in rows:
            for column, value in row.items():
                if column in self._types:
                    continue
                try:
                    self._kinds[column] = _merged(self._kinds.get(column, "null"), _kind(value))
                except (InputError, RecursionError) as error:
                    what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
                    raise InputError(f"column {column!r} cannot be written as Parquet: {what}; use .jsonl") from error

    def schema(self) -> Any:
        """The Arrow schema."""
        found = [(column, _arrow_type(kind)) for column, kind in self._kinds.items()]
        return pa.schema([*found, *self._types.items()])

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Rows as one record batch of that schema."""
        schema = self.schema()
        values = {c: [_fitted(row.get(c), self._kinds.get(c, "null")) for row in rows] for c in schema.names}
        return pa.record_batch([pa.array(values[f.name], type=f.type) for f in schema], schema=schema)


def _kind(value: Any) -> Kind:
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "booleans"
    if isinstance(value, float):
        return "numbers"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InputError("a number is too large")
        return "whole numbers"
    if isinstance(value, dict):
        return {key: _kind(inner) for key, inner in value.items()}
    items: Kind = "null"
    for item in value:
        items = _merged(items, _kind(item))
    return [items]


def _merged(one: Kind, other: Kind) -> Kind:
    """What holds both kinds."""
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    if isinstance(one, list) and isinstance(other, list):
        return [_merged(one[0], other[0])]
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _merged(one.get(key, "null"), other.get(key, "null")) for key in {**one, **other}}
    names = sorted("lists" if isinstance(k, list) else "objects" if isinstance(k, dict) else k for k in (one, other))
    if names == ["numbers", "whole numbers"]:
        return "numbers"
    raise InputError(f"it holds {names[0]} and {names[1]}")


def _arrow_type(kind: Kind) -> Any:
    if isinstance(kind, list):
        return pa.list_(_arrow_type(kind[0]))
    if isinstance(kind, dict):
        return pa.struct([(key, _arrow_type(inner)) for key, inner in kind.items()]) if kind else pa.null()
    return _SCALARS[kind]


def _fitted(value: Any, kind: Kind) -> Any:
    """A value as its column takes it. Parquet knows no objects without keys: where all are empty, they are null."""
    if kind == {} or value is None:
        return None
    if isinstance(kind, list):
        return [_fitted(item, kind[0]) for item in value]
    if isinstance(kind, dict):
        return {key: _fitted(value.get(key), inner) for key, inner in kind.items()}
    return value


def _write_parquet(draft: Path, rows: Iterator[dict[str, Any]], columns: ParquetColumns) -> None:
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    try:
        with draft.open("wb") as file:
            with pq.ParquetWriter(file, columns.schema(), **options) as writer:
                while group := list(islice(rows, _ROWS_PER_GROUP)):
                    writer.write_batch(columns.batch(group))
            _sync(file)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"these rows cannot be written as Parquet ({reason}); use .jsonl", "output") from error
