"""Work units: long work in fixed pieces, each written whole or done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.episodes.delimiters import COLLECTED
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import EpisodeStore, append_episodes, load_episodes
from stepcredit.errors import InputError
from stepcredit.files import write_json
from stepcredit.progress import Advance, track_units
from stepcredit.tasks.task import Problem

UNIT_ROWS = 512
"""Responses of one work unit, about: a unit is written whole or drawn again."""


def work_units(problems: Sequence[Problem], samples: int, rows: int | None = None) -> list[Sequence[Problem]]:
    """Problems in fixed groups of about `rows` responses (`UNIT_ROWS`): the same at every run."""
    size = max(1, (rows or UNIT_ROWS) // samples)
    return [problems[i : i + size] for i in range(0, len(problems), size)]


Unit = Sequence[Problem]
"""The problems of one work unit."""


@dataclass(frozen=True)
class WorkFolder:
    """A folder of episodes that is filled one work unit at a time, and gone on with after a stop.

    Attributes:
        folder: holds one shard a finished unit, and a manifest of the settings.
        settings: all that decides what the episodes are; work of other settings is not gone on with.
        units: in order.
    """

    folder: Path
    settings: dict[str, Any]
    units: Sequence[Unit]

    def done(self) -> int:
        """How many units are finished; writes nothing.

        Raises:
            InputError: the folder was made with other settings, or holds something else.
        """
        out, manifest = self.folder, self.folder / COLLECTED
        if manifest.exists():
            found = json.loads(manifest.read_text(encoding="utf-8"))
            changed = sorted(k for k, value in self.settings.items() if found.get(k) != value)
            if changed:
                raise InputError(f"was collected with another {', '.join(changed)}; choose another --output_dir",
                                 str(out))  # fmt: skip
            return len(list(out.glob("episodes-*.parquet")))
        if out.exists() and any(out.iterdir()):
            raise InputError("is not empty and was not collected here; choose another --output_dir", str(out))
        return 0

    def finish(
        self,
        make: Callable[[Unit, Advance], Iterable[Episode]],
        label: str,
        samples: int = 1,
        counted: str = "responses",
    ) -> EpisodeStore:
        """The episodes of all units; those that are not there yet are made and written, each unit whole.

        Args:
            make: a unit, and who is told of progress, to its episodes.
            label: for the progress bar.
            samples: what is counted, a problem.
            counted: what it is, in the plural.

        Raises:
            InputError: as `done`.
        """
        done = self.done()
        if not (self.folder / COLLECTED).exists():
            write_json(self.folder / COLLECTED, self.settings)
        for unit, advance in track_units(self.units[done:], label, samples, counted):
            append_episodes(self.folder, make(unit, advance))
        return load_episodes(self.folder)
