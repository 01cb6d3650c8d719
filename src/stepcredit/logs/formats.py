"""Readers of log files: JSON lines, JSON, CSV and Parquet, plain or gzipped, one row at a time.

A bad row is returned as a row with an error, and reading continues. Blank lines are skipped. An unreadable file raises.
Every row has its position, counted from 1: `logs.jsonl:12`, `logs.parquet: row 3`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stepcredit.errors import InputError

_CSV_FIELD_LIMIT = 2**31 - 1  # the default of 131,072 characters is too short for long responses
_PARQUET_BATCH = 256


class Row(NamedTuple):
    """One row of a log, with either `data` or `error`.

    Attributes:
        where: the file and the line or row.
        progress: fraction of the file read so far, 0 to 1.
        data: column name → value.
        error: the error of a bad row.
        raw: the text of a bad row.
        text_cells: whether all values are text (CSV), so that numbers and lists must still be parsed.
    """

    where: str
    progress: float = 0.0
    data: dict[str, Any] | None = None
    error: InputError | None = None
    raw: str = ""
    text_cells: bool = False


def read_rows(file: str | Path) -> Iterator[Row]:
    """Reads a `.jsonl` (or `.ndjson`), `.json` (a list), `.csv` or `.parquet` file; all but the last also as `.gz`.

    Memory use is constant, except for `.json`. The suffix and existence are checked immediately, the content lazily.

    Raises:
        InputError: the file does not exist, has an unknown suffix, or cannot be read at all.
    """
    path = Path(file)
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in _READERS or (suffix == ".parquet" and name.endswith(".gz")):
        raise InputError("unknown kind of file; use .jsonl, .json, .csv (each also .gz) or .parquet", str(path))
    if not path.is_file():
        raise InputError("no such file", str(path))
    return _READERS[suffix](path)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], float]]]:
    """(the decompressed stream; a function that returns the fraction of the file read so far)."""
    size = path.stat().st_size
    is_gzip = path.name.lower().endswith(".gz")
    if is_gzip and not size:
        raise InputError("the gzip file is empty", str(path))
    try:
        with path.open("rb") as packed:
            stream: Any = gzip.GzipFile(fileobj=packed) if is_gzip else packed
            yield stream, lambda: packed.tell() / max(size, 1)
    except (OSError, EOFError, zlib.error) as error:
        what = "corrupt or truncated gzip" if is_gzip else "cannot be read"
        raise InputError(f"{what} ({error})", str(path)) from error


def _read_jsonl(path: Path) -> Iterator[Row]:
    with _opened(path) as (stream, progress):
        for number, line in enumerate(stream, 1):
            where, line = f"{path}:{number}", line.rstrip(b"\r\n")
            hint = "; a file that is one list of rows is named .json" if number == 1 and line[:1] == b"[" else ""
            try:
                text = _decode(line, is_start=number == 1)
                if not text.strip():
                    continue
                data = checked(_parse_json(text))
            except InputError as error:
                yield _bad(where, progress(), InputError(error.what + hint), line.decode("utf-8", "backslashreplace"))
            else:
                yield Row(where, progress(), data)


def _read_json(path: Path) -> Iterator[Row]:
    with _opened(path) as (stream, _):
        content = stream.read()
    try:
        rows = _parse_json(_decode(content, is_start=True))
    except InputError as error:
        is_lines = error.what.endswith(": Extra data")
        hint = "; a file with one object a line is named .jsonl" if is_lines else ""
        raise InputError(f"{error.what}{hint}", str(path)) from error
    if not isinstance(rows, list):
        raise InputError("expected a list of rows; a file with one object a line is named .jsonl", str(path))
    for number, item in enumerate(rows, 1):
        where = f"{path}: row {number}"
        try:
            yield Row(where, number / len(rows), checked(item))
        except InputError as error:
            yield _bad(where, number / len(rows), error, json.dumps(item))


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    with _opened(path) as (stream, progress):
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, strict=True)
        header = _csv_header(reader, path)
        while True:
            where = f"{path}:{reader.line_num + 1}"
            cells: list[str] = []
            try:
                cells = next(reader)
                if not any(cell.strip() for cell in cells):
                    continue
                data = _csv_data(header, cells)
            except StopIteration:
                return
            except csv.Error as error:
                yield _bad(where, progress(), InputError(f"invalid CSV: {error}"), "")
            except InputError as error:
                raw = json.dumps([c.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for c in cells])
                yield _bad(where, progress(), error, raw)
            else:
                yield Row(where, progress(), data, text_cells=True)


def _csv_header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InputError(f"invalid CSV: {error}", f"{path}:1") from error
    if not header or not all(header) or len(set(header)) < len(header):
        raise InputError("the first line must name the columns, each once", f"{path}:1")
    return header


def _csv_data(header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise InputError(f"{len(cells)} cells for {len(header)} columns")
    if not all(_is_unicode(cell) for cell in cells):
        raise InputError("not UTF-8 text")
    return dict(zip(header, cells, strict=True))


def _read_parquet(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            total = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for data in _parquet_data(batch):
                    number += 1
                    where = f"{path}: row {number}"
                    if isinstance(data, InputError):
                        yield _bad(where, number / total, data, "")
                    else:
                        yield Row(where, number / total, {k: without_nulls(v) for k, v in data.items()})
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"corrupt Parquet file ({str(error).splitlines()[0]})", str(path)) from error


def without_nulls(value: Any) -> Any:
    """Removes null keys from objects: in Parquet every object has the union of all keys."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _parquet_data(batch: Any) -> Iterator[dict[str, Any] | InputError]:
    """The rows of a batch; they are read one by one only if one has invalid UTF-8."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        yield from rows
    except UnicodeDecodeError:
        for k in range(batch.num_rows):
            try:
                yield batch.slice(k, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield InputError("not UTF-8 text")


def _bad(where: str, progress: float, error: InputError, raw: str) -> Row:
    return Row(where, progress, error=InputError(error.what, where), raw=raw)


def _decode(line: bytes, *, is_start: bool) -> str:
    try:
        return line.decode("utf-8-sig" if is_start else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start + 1})") from error


def _parse_json(text: str) -> Any:
    if not text.strip():
        raise InputError("the file is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise InputError(f"invalid JSON at {line}column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"invalid JSON: {error}") from error


def checked(item: Any) -> dict[str, Any]:
    """Checks that a parsed row is an object with finite numbers and valid Unicode."""
    if not isinstance(item, dict):
        raise InputError(f"a row must be an object, not {'null' if item is None else type(item).__name__}")
    for column, value in item.items():
        if column.isascii() and (value.isascii() if isinstance(value, str) else isinstance(value, int)):
            continue
        try:
            flaw = _flaw(column) or _flaw(value)
        except RecursionError:
            flaw = "nested too deeply"
        if flaw:
            raise InputError(f"{column!a}: {flaw}")
    return item


def _flaw(value: Any) -> str | None:
    if isinstance(value, str):
        return None if _is_unicode(value) else "holds half a character (a lone surrogate)"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value} is not a finite number"
    if isinstance(value, dict):
        return next((flaw for pair in value.items() for v in pair if (flaw := _flaw(v))), None)
    if isinstance(value, list):
        return next((flaw for v in value if (flaw := _flaw(v))), None)
    return None


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
