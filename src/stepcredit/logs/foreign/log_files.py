"""Reading of log files whose rows have our columns, or are another tool's and are converted to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from stepcredit.errors import InputError
from stepcredit.logs.foreign.batches import Joined, is_joined, is_response
from stepcredit.logs.foreign.grouped import from_group, is_group
from stepcredit.logs.foreign.inspect_logs import is_inspect_log, read_inspect_log
from stepcredit.logs.foreign.verifiers import (
    from_episode,
    from_rollout,
    from_trace,
    is_episode,
    is_rollout,
    is_trace,
)
from stepcredit.logs.formats import Row, read_rows
from stepcredit.logs.hub import Subset, is_on_hub, read_hub

_Converted = list[dict[str, Any] | InputError]
_KINDS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], _Converted]], ...] = (
    (is_group, from_group),
    (is_rollout, from_rollout),
    (is_trace, from_trace),
    (is_episode, from_episode),
)
_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


def read_logs(files: Sequence[str | Path], subset: Subset | None = None) -> list[Iterator[Row]]:
    """Opens log files of any kind, also `.eval` logs of Inspect and response files of batches with the files that are
    joined to them. A row of several responses becomes several rows.

    Args:
        files: the files; with a subset also `hub:OWNER/NAME`, a dataset of the hub.
        subset: which rows of datasets are read.

    Returns:
        One iterator of rows per file, in order; files that are joined have none. Suffix and existence are checked
        immediately, the content lazily.

    Raises:
        InputError: a file does not exist, has an unknown suffix, or cannot be read.
    """
    sources = [_rows_of(file, subset) for file in files]
    batch = _Batch(files)
    return [batch.converted(file, source) for file, source in zip(files, sources, strict=True)]


def _rows_of(file: str | Path, subset: Subset | None) -> Iterator[Row]:
    if subset is not None and is_on_hub(file):
        return read_hub(str(file), subset)
    return read_inspect_log(file) if is_inspect_log(file) else read_rows(file)


class _Batch:
    """The files of one command; which of them are joined is known when the first row is read."""

    def __init__(self, files: Sequence[str | Path]) -> None:
        self._files = files
        self._read: tuple[set[str], Joined] | None = None

    def converted(self, file: str | Path, source: Iterator[Row]) -> Iterator[Row]:
        joined_files, joined = self._joined()
        if str(file) in joined_files:
            return
        for row in source:
            yield from _converted(row, joined)

    def _joined(self) -> tuple[set[str], Joined]:
        if self._read is None:
            joined, names = Joined(), set[str]()
            first = {str(file): _first(file) for file in self._files} if len(self._files) > 1 else {}
            if any(is_response(row) for row in first.values()):
                names = {file for file, row in first.items() if is_joined(row)}
                for file in sorted(names):
                    joined.add(read_rows(file))
            self._read = names, joined
        return self._read


def _first(file: str | Path) -> Mapping[str, Any]:
    """The first row of a file of lines; nothing where it is bad, or the file is of another kind."""
    if not str(file).lower().endswith(_LINES) or is_on_hub(file):
        return {}
    with closing(cast(Any, read_rows(file))) as rows:
        row = next(rows, None)
    return (row.data or {}) if row is not None else {}


def _converted(row: Row, joined: Joined) -> Iterator[Row]:
    """The rows that a row becomes; itself if it is none of another tool's."""
    data = row.data
    if data is None or row.text_cells:
        yield row
        return
    convert = joined.responses if is_response(data) else next((to for is_kind, to in _KINDS if is_kind(data)), None)
    if convert is None:
        yield row
        return
    try:
        items = convert(data)
    except InputError as error:
        items = [error]
    for item in items:
        if isinstance(item, InputError):
            raw = row.raw or json.dumps(data, ensure_ascii=False, default=str)
            yield row._replace(data=None, error=InputError(str(item), row.where), raw=raw)
        else:
            yield row._replace(data=item)
