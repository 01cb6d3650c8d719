"""Rows of a dataset on the hub, by name: `hub:OWNER/NAME`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stepcredit.errors import InputError
from stepcredit.logs.formats import Row, without_nulls

PREFIX = "hub:"


class Subset(NamedTuple):
    """Which rows of a dataset are read.

    Attributes:
        config: name of the configuration; None: the dataset's only one.
        split: name of the split.
    """

    config: str | None = None
    split: str = "train"


def is_on_hub(source: str | Path) -> bool:
    """Whether a source of rows is named as a dataset of the hub."""
    return str(source).startswith(PREFIX)


def read_hub(source: str, subset: Subset) -> Iterator[Row]:
    """Reads a split of a dataset, row by row as it arrives.

    What follows the prefix may be all that `datasets.load_dataset` takes by name, a folder too. As in Parquet files,
    keys without a value are left out.

    Raises:
        InputError: there is no such dataset, configuration or split, or it cannot be read to its end.
    """
    import datasets

    def failure(reason: str) -> InputError:
        place = f" after row {number}" if number else ""
        hint = (
            "" if number else f"; see --dataset_config and --dataset_split, or https://huggingface.co/datasets/{name}"
        )
        return InputError(f"cannot be read{place} ({reason}){hint}", source)

    name, number = source.removeprefix(PREFIX), 0
    if not name:
        raise InputError(f"name a dataset, {PREFIX}OWNER/NAME", source)
    with hub_failures(failure):
        rows = datasets.load_dataset(name, subset.config, split=subset.split, streaming=True)
        total = _total(rows, subset.split)
        for number, data in enumerate(rows, 1):
            progress = min(1.0, number / total) if total else 0.0
            yield Row(f"{source}: row {number}", progress, {k: without_nulls(v) for k, v in data.items()})


@contextmanager
def hub_failures(failure: Callable[[str], InputError]) -> Iterator[None]:
    """Context manager of reading the hub: what fails becomes the error that `failure` makes of its reason, one line."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    # OSError: offline, no such host, time-out, not found, refused. ValueError: no such configuration or split.
    except (OSError, ValueError, DatasetsError, EntryNotFoundError, HTTPError) as error:
        raise failure(next(iter(str(error).splitlines()), "") or type(error).__name__) from error


def _total(rows: Any, split: str) -> int | None:
    """Returns the number of rows where the dataset says so."""
    splits = rows.info.splits or {}
    return splits[split].num_examples or None if split in splits else None
