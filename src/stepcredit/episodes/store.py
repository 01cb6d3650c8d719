"""Storage of episodes in a folder of Parquet shards, with concurrent, atomic appends.

A shard is written under a temporary name, synced, and then renamed to the next free number, so readers only see
complete shards. One row is one episode; `records` defines the columns.
"""

from __future__ import annotations

import operator
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, SupportsIndex, overload

import pyarrow as pa
import pyarrow.parquet as pq

from stepcredit.episodes.episode import Episode
from stepcredit.episodes.records import IN_MEMORY_SCHEMA, OPTIONAL, SCHEMA, from_batch, to_batch
from stepcredit.errors import InputError
from stepcredit.files import draft_of, sync, why_not_written

_ROWS_PER_GROUP = 1024
_UNIT = b"stepcredit.unit"
_SHARD = re.compile(r"episodes-(\d{5,})\.parquet")


def load_episodes(path: str | Path) -> EpisodeStore:
    """Opens a folder of episodes as a read-only sequence; shards that are added later are not included.

    Raises:
        InputError: the folder does not exist or has no shards, or a shard cannot be read.
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


class EpisodeStore(Sequence[Episode]):
    """A sequence of the episodes in a folder of shards; see `load_episodes`.

    The columns are kept in memory as Arrow tables; episodes are created on access. Slices give lists.

    Args:
        path: the folder.
        shards: the files to read, in this order; None: all, by number.
    """

    def __init__(self, path: str | Path, shards: Iterable[Path] | None = None) -> None:
        self.path = Path(path)
        self.shards = tuple(_find_shards(self.path) if shards is None else shards)
        self._parts = [part for shard in self.shards for part in _read_shard(shard)]
        self._ends = list(accumulate(part.batch.num_rows for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Episode]:
        for part in self._parts:
            yield from part.episodes(0, part.batch.num_rows)

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
        return self._parts[number].episodes(row, row + 1)[0]

    def __repr__(self) -> str:
        return f"EpisodeStore({str(self.path)!r}: {len(self)} episodes in {len(self.shards)} shards)"

    def column(self, name: str) -> list[Any]:
        """Returns one stored column of all episodes."""
        return [value for part in self._parts for value in part.batch.column(name).to_pylist()]


def _write_draft(draft: Path, episodes: Iterable[Episode], unit: str | None) -> None:
    """Writes and syncs a Parquet file under a name that readers ignore."""
    rows = iter(episodes)
    group = list(islice(rows, _ROWS_PER_GROUP))
    if not group:
        raise InputError("there are no episodes to write")
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    schema = SCHEMA if unit is None else SCHEMA.with_metadata({**(SCHEMA.metadata or {}), _UNIT: unit})
    with draft.open("xb") as file:
        with pq.ParquetWriter(file, schema, **options) as writer:
            while group:
                writer.write_batch(to_batch(group))
                group = list(islice(rows, _ROWS_PER_GROUP))
        file.flush()
        os.fsync(file.fileno())


def _publish(draft: Path, folder: Path) -> Path:
    """Renames a finished draft to the next free number, which is claimed first so that no shard is replaced."""
    number = max((n for n, _ in _numbered(folder)), default=-1) + 1
    while True:
        shard = folder / f"episodes-{number:05d}.parquet"
        with _claimed(folder / f".{shard.name}.claim") as is_claimed:
            if is_claimed and not shard.exists():
                return draft.rename(shard)
        number += 1


@contextmanager
def _claimed(claim: Path) -> Iterator[bool]:
    """Yields whether this process got the claim. The number of a claim left by a killed writer is skipped."""
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        claim.unlink()


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    matches = [(_SHARD.fullmatch(p.name), p) for p in folder.iterdir()]
    return sorted((int(m[1]), p) for m, p in matches if m)


def _find_shards(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError("no such folder of episodes", str(folder))
    shards = [path for _, path in _numbered(folder)]
    if not shards:
        raise InputError("no shards (episodes-00000.parquet, …) in this folder", str(folder))
    return shards


@dataclass(frozen=True)
class _Part:
    """A row group of a shard; `first_row` is its offset in the shard, for messages."""

    shard: Path
    first_row: int
    batch: Any

    def episodes(self, start: int, stop: int) -> list[Episode]:
        """Returns the episodes of rows start … stop-1."""
        rows = self.batch.slice(start, stop - start)
        episodes: list[Episode] = []
        try:
            from_batch(rows, episodes)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            row = self.first_row + start + len(episodes) + 1
            raise InputError(f"not a valid episode: {error}", f"{self.shard}: row {row}") from error
        return episodes


def _read_shard(shard: Path) -> list[_Part]:
    try:
        with pq.ParquetFile(
            shard, memory_map=True, read_dictionary=["prompt"], page_checksum_verification=True
        ) as file:
            missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
            if set(missing) - {OPTIONAL}:
                raise InputError(f"not a shard of episodes: no column {', '.join(missing)}", str(shard))
            table = file.read(columns=[name for name in SCHEMA.names if name not in missing])
            for name in missing:
                table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
            table = table.select(SCHEMA.names).cast(IN_MEMORY_SCHEMA)
    except KeyError as error:  # the column that Arrow was to read as a dictionary
        raise InputError("not a shard of episodes: no column prompt", str(shard)) from error
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(shard, error) from error
    batches = table.to_batches()
    firsts = accumulate((b.num_rows for b in batches), initial=0)
    return [_Part(shard, first, batch) for first, batch in zip(firsts, batches, strict=False)]


def _corrupt(shard: Path, error: Exception) -> InputError:
    return InputError(f"corrupt shard, restore it or remove it ({str(error).splitlines()[0]})", str(shard))
