"""Sources of a data set's problems: the hub, a file, or a folder of files.

Each row has its position, for error messages. Each source has a version, which identifies the bytes that were read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stepcredit.errors import InputError
from stepcredit.logs.formats import read_rows
from stepcredit.logs.hub import hub_failures

_NAME = re.compile(
    r"(?P<stem>.+?)(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?(?:\.(?:jsonl|json|csv)(?:\.gz)?|\.parquet)",
    re.IGNORECASE,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGITS = 12


@dataclass(frozen=True)
class HubDataset:
    """One split of a data set: its name on the hub and its file names in a folder.

    Attributes:
        name: the data set on the hub, "owner/name".
        split: the split on the hub.
        columns: columns in which every row must have non-blank text.
        stems: possible file names in a folder, without suffixes, in order of preference.
        configs: configurations on the hub, concatenated in this order; None is the default one.
    """

    name: str
    split: str
    columns: tuple[str, ...]
    stems: tuple[str, ...]
    configs: tuple[str | None, ...] = (None,)


class SourceRow(NamedTuple):
    """One row: its position (`train.jsonl:12`), and column name → value."""

    where: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """The rows of one split.

    Attributes:
        rows: rows in the order of the files or of the hub.
        version: `sha256:` and 12 hexadecimal digits of the files' hash; for the hub `name@` and 12 digits of the
            commit, or the fingerprint of `datasets` if the commit is unknown.
    """

    rows: tuple[SourceRow, ...]
    version: str


class Sources:
    """The splits of one data set, each read once.

    Args:
        data: a file, a folder, or None for the hub.

    Attributes:
        versions: split → version, of the splits read so far.
    """

    def __init__(self, data: str | None = None) -> None:
        self.data = data
        self.versions: dict[str, str] = {}
        self._read: dict[str, Source] = {}

    def refuse_single_file(self) -> None:
        """Checks the data of few-shot prompts: with one file for all splits, examples would come from the test data.

        Raises:
            InputError: the data is a single file.
        """
        if self.data is not None and Path(self.data).is_file():
            raise InputError("the examples come from train; give a folder with both splits", self.data)

    def has(self, split: str) -> bool:
        """Whether the data is a folder with a file `split.*`."""
        folder = None if self.data is None else Path(self.data)
        if folder is None or not folder.is_dir():
            return False
        named = [found for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))]
        return any(found["stem"].lower() == split for found in named)

    def rows(self, split: str, hub: HubDataset) -> tuple[SourceRow, ...]:
        """The rows of a split (see `load_rows`)."""
        if split not in self._read:
            self._read[split] = load_rows(hub, self.data)
            self.versions[split] = self._read[split].version
        return self._read[split].rows


def load_rows(hub: HubDataset, data: str | None = None) -> Source:
    """Loads the rows of a split.

    Args:
        hub: the data set and split.
        data: None reads the hub, through the cache of `datasets`. A file (`.jsonl`, `.json`, `.csv`, each also `.gz`,
            or `.parquet`) is read for every split. A folder is searched by `find_files`.

    Raises:
        InputError: the hub cannot be reached, the file does not exist, not exactly one file in the folder matches,
            there are no rows, or a row cannot be read or lacks a column; with file and line.
    """
    source = _from_hub(hub) if data is None else _from_files(_files(hub, Path(data)))
    if not source.rows:
        raise InputError("has no rows", data or hub.name)
    for row in source.rows:
        for column in hub.columns:
            text_of(row, column)
    return source


def text_of(row: SourceRow, column: str) -> str:
    """Returns the text in a column of a row.

    Raises:
        InputError: the column is missing or has no text.
    """
    if column not in row.data:
        raise InputError(f"no column {column!r}; there is {', '.join(row.data)}", row.where)
    value = row.data[column]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{column!r} must be non-blank text", row.where)
    return value


def find_files(folder: Path, stems: Sequence[str]) -> list[Path]:
    """Finds the files of a split in a folder: one file, or all its shards in order.

    The first stem with a matching file is used: with the stems `test` and `gsm8k_test`, `test.parquet`, else
    `gsm8k_test.jsonl.gz`, but never `gsm8k_test_rollouts.jsonl.gz`. If no name equals a stem, the name may end in a
    number of rows (`math_train4500.jsonl.gz` for the stem `math_train`). Case is ignored, and `-` equals `_`; shards
    are named `test-00000-of-00002.parquet`.

    Raises:
        InputError: no matching file, several, or missing shards; with a list of the files.
    """
    named = [
        (path, found) for path in sorted(folder.iterdir()) if (found := _NAME.fullmatch(path.name)) and path.is_file()
    ]
    patterns = [re.escape(stem) for stem in stems]
    for pattern in [*patterns, *(rf"{pattern}_?\d+k?" for pattern in patterns)]:
        fitting = [pair for pair in named if re.fullmatch(pattern, pair[1]["stem"].lower().replace("-", "_"))]
        if fitting:
            return _one_or_shards(folder, fitting)
    looked = ", ".join(f"{stem}.*" for stem in stems)
    raise InputError(f"no {looked} here ({_listed([path for path, _ in named])}); give --data FILE", str(folder))


def _one_or_shards(folder: Path, fitting: Sequence[tuple[Path, re.Match[str]]]) -> list[Path]:
    paths = [path for path, _ in fitting]
    if len({(found["stem"], path.suffix, found["shards"]) for path, found in fitting}) > 1:
        raise InputError(f"several files fit: {_listed(paths)}; give --data FILE", str(folder))
    shards = fitting[0][1]["shards"]
    if shards is None and len(paths) > 1:
        raise InputError(f"several files fit: {_listed(paths)}; give --data FILE", str(folder))
    if shards is not None and [int(found["shard"]) for _, found in fitting] != list(range(int(shards))):
        raise InputError(f"shards are missing; there is {_listed(paths)}", str(folder))
    return paths


def _listed(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths]
    return ", ".join(names[:10] + ["…"] * (len(names) > 10)) or "no data files"


def _files(hub: HubDataset, path: Path) -> list[Path]:
    """The files to read; subfolders per configuration, as in a clone from the hub, are searched."""
    if not path.exists():
        raise InputError("no such file or folder", str(path))
    if not path.is_dir():
        return [path]
    configs = [path / config for config in hub.configs if config is not None]
    folders = configs if configs and all(folder.is_dir() for folder in configs) else [path]
    return [file for folder in folders for file in find_files(folder, hub.stems)]


def _from_files(files: Sequence[Path]) -> Source:
    digest = hashlib.sha256()
    rows: list[SourceRow] = []
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        for row in read_rows(file):
            if row.error is not None:
                raise row.error
            rows.append(SourceRow(row.where, row.data or {}))
    return Source(tuple(rows), f"sha256:{digest.hexdigest()[:_DIGITS]}")


def _from_hub(hub: HubDataset) -> Source:
    rows: list[SourceRow] = []
    versions: list[str] = []
    for config in hub.configs:
        loaded = _load_dataset(hub, config)
        place = " ".join(part for part in (hub.name, config, hub.split) if part)
        rows += [SourceRow(f"{place}: row {number}", dict(data)) for number, data in enumerate(loaded, 1)]
        folders = [Path(file["filename"]).parent.name for file in loaded.cache_files]  # named by the commit
        versions.append(next((n[:_DIGITS] for n in folders if _COMMIT.fullmatch(n)), str(loaded._fingerprint)))
    return Source(tuple(rows), f"{hub.name}@{'+'.join(dict.fromkeys(versions))}")


def _load_dataset(hub: HubDataset, config: str | None) -> Any:
    """Loads a `datasets.Dataset`; a failure becomes one line that says what to do."""
    import datasets

    def failure(reason: str) -> InputError:
        return InputError(f"cannot be loaded from the hub ({reason}); give --data FILE or FOLDER", hub.name)

    with hub_failures(failure):
        return datasets.load_dataset(hub.name, config, split=hub.split)
