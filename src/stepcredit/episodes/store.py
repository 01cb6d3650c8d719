"""Storage of episodes in a folder of Parquet shards, with concurrent, atomic appends.

A shard is written under a temporary name, synced, and then linked to the next free number, so readers only see
complete shards. One row is one episode; `records` defines the columns.
"""

from __future__ import annotations

import operator
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

import pyarrow as pa
import pyarrow.parquet as pq

from stepcredit.episodes.episode import Episode
from stepcredit.episodes.records import OPTIONAL, SCHEMA, from_batch, to_batch
from stepcredit.errors import InputError
from stepcredit.files import draft_of, sync, why_not_written

_ROWS_PER_GROUP = 1024
_UNIT = b"stepcredit.unit"
_SHARD = re.compile(r"episodes-(\d{5,})\.parquet")


def load_episodes(path: str | Path) -> EpisodeStore:
    """Opens a folder of episodes as a read-only sequence; shards that are added later are not included.

    Raises:
        InputError: the folder does not exist or has no shards, or a shard cannot be opened. What is corrupt within a
            shard is found when it is read.
    """
    return EpisodeStore(path)


def append_episodes(path: str | Path, episodes: Iterable[Episode], unit: str | None = None) -> Path:
    """Writes episodes atomically as a new shard and returns its path.

    Several processes may append to one folder at once. The folder is created if it is missing. Equal episodes give
    equal bytes.

    Args:
        path: the folder.
        episodes: one or more episodes.
        unit: the name of the work unit that produced them, if any; see `units_of`.

    Raises:
        InputError: there are no episodes, or one cannot be stored.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    draft = draft_of(folder / "episodes")
    try:
        _write_draft(draft, episodes, unit)
        shard = _publish(draft, folder)
    except (OSError, pa.ArrowException) as error:
        raise InputError(why_not_written(error), str(folder)) from error
    finally:
        draft.unlink(missing_ok=True)
    sync(folder)
    return shard


def units_of(path: str | Path) -> dict[str, Path]:
    """Returns the shard of each work unit in a folder, without shards of no unit, such as imported ones; empty if the
    folder does not exist.

    Raises:
        InputError: a shard cannot be read, or two shards have the same unit.
    """
    units: dict[str, Path] = {}
    for _, shard in _numbered(Path(path)) if Path(path).is_dir() else ():
        try:
            unit = (pq.read_schema(shard).metadata or {}).get(_UNIT)
        except (pa.ArrowException, OSError) as error:
            raise _corrupt(shard, error) from error
        if unit is not None:
            first = units.setdefault(unit.decode(), shard)
            if first != shard:
                raise InputError(f"holds the same work unit as {first.name}; remove one of them", str(shard))
    return units


@dataclass(frozen=True)
class StoredRows:
    """Consecutive rows of a shard, as a record batch with the columns of `records.SCHEMA`; `first_row` is their place
    in the shard, from 0."""

    shard: Path
    first_row: int
    batch: Any

    def episodes(self) -> list[Episode]:
        """Returns the episodes of the rows.

        Raises:
            InputError: a row is not a valid episode; with its shard and number.
        """
        episodes: list[Episode] = []
        try:
            from_batch(self.batch, episodes)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            row = self.first_row + len(episodes) + 1
            raise InputError(f"not a valid episode: {error}", f"{self.shard}: row {row}") from error
        return episodes


class EpisodeStore(Sequence[Episode]):
    """A sequence of the episodes in a folder of shards; see `load_episodes`.

    Episodes are read when they are asked for, a row group at a time, and only the last one that was asked for by number
    is kept: to go through them in order takes constant memory, and to take them in random order is slow. Slices give
    lists.

    Args:
        path: the folder.
        shards: the files to read, in this order; None: all, by number.
    """

    def __init__(self, path: str | Path, shards: Iterable[Path] | None = None) -> None:
        self.path = Path(path)
        self.shards = tuple(_find_shards(self.path) if shards is None else shards)
        self._groups = [group for shard in self.shards for group in _groups_of(shard)]
        self._ends = list(accumulate(group.rows for group in self._groups))
        self._last: tuple[int, StoredRows] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Episode]:
        for rows in self.rows():
            yield from rows.episodes()

    def rows(self, columns: Sequence[str] = SCHEMA.names) -> Iterator[StoredRows]:
        """Yields all rows in order, at most 1,024 at a time, with some of their columns.

        Raises:
            InputError: a shard cannot be read.
        """
        for shard in self.shards:
            first = 0
            with _opened(shard) as file:
                for batch in file.iter_batches(_ROWS_PER_GROUP, columns=_present(file, columns), use_threads=False):
                    yield StoredRows(shard, first, _completed(batch, columns))
                    first += batch.num_rows

    @overload
    def __getitem__(self, index: SupportsIndex) -> Episode: ...

    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Episode | list[Episode]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = operator.index(index)
        at += len(self) if at < 0 else 0
        if not 0 <= at < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        number = bisect_right(self._ends, at)
        row = at - (self._ends[number - 1] if number else 0)
        group = self._group(number)
        return StoredRows(group.shard, group.first_row + row, group.batch.slice(row, 1)).episodes()[0]

    def _group(self, number: int) -> StoredRows:
        if self._last is None or self._last[0] != number:
            group = self._groups[number]
            with _opened(group.shard) as file:
                table = file.read_row_group(group.number, columns=_present(file, SCHEMA.names), use_threads=False)
                (batch,) = table.combine_chunks().to_batches()
            self._last = number, StoredRows(group.shard, group.first_row, _completed(batch, SCHEMA.names))
        return self._last[1]

    def __repr__(self) -> str:
        return f"EpisodeStore({str(self.path)!r}: {len(self)} episodes in {len(self.shards)} shards)"

    def column(self, name: str) -> list[Any]:
        """Returns one stored column of all episodes."""
        return [value for rows in self.rows([name]) for value in rows.batch.column(0).to_pylist()]


def _write_draft(draft: Path, episodes: Iterable[Episode], unit: str | None) -> None:
    """Writes and syncs a Parquet file under a name that readers ignore, a row group in a thread while the next one is
    made."""
    batches = _batches(iter(episodes))
    first = next(batches, None)
    if first is None:
        raise InputError("there are no episodes to write")
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    schema = SCHEMA if unit is None else SCHEMA.with_metadata({**(SCHEMA.metadata or {}), _UNIT: unit})
    with draft.open("xb") as file:
        with pq.ParquetWriter(file, schema, **options) as writer, ThreadPoolExecutor(1) as beside:
            written = beside.submit(writer.write_batch, first)
            for batch in batches:
                written.result()
                written = beside.submit(writer.write_batch, batch)
            written.result()
        file.flush()
        os.fsync(file.fileno())


def _batches(episodes: Iterator[Episode]) -> Iterator[Any]:
    """Yields the episodes as record batches of a row group each."""
    while group := list(islice(episodes, _ROWS_PER_GROUP)):
        batch = to_batch(group)
        group.clear()
        yield batch


def _publish(draft: Path, folder: Path) -> Path:
    """Gives a finished draft the next free number, and returns its path. No shard is replaced: a link, unlike a renamed
    file, never takes the place of another one."""
    number = max((n for n, _ in _numbered(folder)), default=-1) + 1
    while True:
        shard = folder / f"episodes-{number:05d}.parquet"
        try:
            os.link(draft, shard)
            return shard
        except FileExistsError:
            number += 1
        except OSError:  # a file system without links, where two writers at the same moment may still collide
            if not shard.exists():
                return draft.rename(shard)
            number += 1


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    matches = [(_SHARD.fullmatch(p.name), p) for p in folder.iterdir()]
    return sorted((int(m[1]), p) for m, p in matches if m)


def _find_shards(folder: Path) -> list[Path]:
    if folder.is_file():
        raise InputError(f"is a file, no folder of episodes; first: stepcredit import {folder} --output_dir episodes",
                         str(folder))  # fmt: skip
    if not folder.is_dir():
        raise InputError("no such folder of episodes", str(folder))
    shards = [path for _, path in _numbered(folder)]
    if not shards:
        raise InputError("is no folder of episodes: it has no shards (episodes-00000.parquet, …)", str(folder))
    return shards


class _Group(NamedTuple):
    """A row group of a shard: its number there, the place of its first row, and how many rows it has."""

    shard: Path
    number: int
    first_row: int
    rows: int


def _groups_of(shard: Path) -> list[_Group]:
    """The row groups of a shard with rows in them; reads the end of the file, which describes it."""
    with _opened(shard) as file:
        missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
        if set(missing) - {OPTIONAL}:
            raise InputError(f"not a shard of episodes: no column {', '.join(missing)}", str(shard))
        for field in SCHEMA:
            at = file.schema_arrow.get_field_index(field.name)
            if at >= 0 and field.type == pa.string() and not _is_text(file.schema_arrow.field(at).type):
                raise InputError(f"not a shard of episodes: column {field.name} is not text", str(shard))
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    firsts = accumulate(sizes, initial=0)
    return [_Group(shard, k, first, size) for k, (first, size) in enumerate(zip(firsts, sizes, strict=False)) if size]


def _is_text(kind: Any) -> bool:
    """Whether a column of this type holds text, or nothing at all."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


@contextmanager
def _opened(shard: Path) -> Iterator[pq.ParquetFile]:
    """Opens a shard for reading in small pieces; without `pre_buffer`, which reads the whole file ahead."""
    try:
        with pq.ParquetFile(shard, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(shard, error) from error


def _present(file: pq.ParquetFile, columns: Sequence[str]) -> list[str]:
    return [name for name in columns if name in file.schema_arrow.names]


def _completed(batch: Any, columns: Sequence[str]) -> Any:
    """The columns of a batch in this order and with their types; a missing one is null."""
    fields = [SCHEMA.field(name) for name in columns]
    found = [batch.column(f.name) if f.name in batch.schema.names else pa.nulls(len(batch), f.type) for f in fields]
    return pa.record_batch([a.cast(f.type) for a, f in zip(found, fields, strict=True)], schema=pa.schema(fields))


def _corrupt(shard: Path, error: Exception) -> InputError:
    return InputError(f"corrupt shard, restore it or remove it ({str(error).splitlines()[0]})", str(shard))
