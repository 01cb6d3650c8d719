"""Work units: long work in fixed pieces, each written whole or done again."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stepcredit.episodes.delimiters import COLLECTED
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import EpisodeStore, append_episodes, units_of
from stepcredit.errors import InputError
from stepcredit.files import changed_settings, holds_something, locked, read_manifest, write_json
from stepcredit.progress import Advance, track_units
from stepcredit.tasks.task import Problem, Task

UNIT_ROWS = 512
"""Responses of one work unit, about: a unit is written whole or drawn again."""


def work_units(problems: Sequence[Problem], samples: int, rows: int | None = None) -> list[Sequence[Problem]]:
    """Problems in fixed groups of about `rows` responses (`UNIT_ROWS`): the same at every run."""
    size = max(1, (rows or UNIT_ROWS) // samples)
    return [problems[i : i + size] for i in range(0, len(problems), size)]


def settings_of(config: Any, task: Task, *left_out: str) -> dict[str, Any]:
    """What decides which episodes are made: all of a config but where things are and these fields, and the task's
    own."""
    about = {"task_version": task.version, "source_versions": task.source_versions}
    settings = {**asdict(config), **about, "step_delimiters": list(task.step_delimiters)}
    return {name: value for name, value in settings.items() if name not in ("output_dir", "data", "workers", *left_out)}


Unit = Sequence[Problem]
"""The problems of one work unit."""


@dataclass(frozen=True)
class WorkFolder:
    """A folder of episodes that is filled one work unit at a time, and gone on with after a stop.

    Each unit is one shard, which carries the unit's name; shards without one, such as imported episodes, are left
    alone. Settings bind from the first finished unit on.

    Attributes:
        folder: holds one shard a finished unit, and a manifest of the settings.
        settings: all that decides what the episodes are; work of other settings is not gone on with.
        units: in order.
    """

    folder: Path
    settings: dict[str, Any]
    units: Sequence[Unit]

    @cached_property
    def names(self) -> list[str]:
        """The name of each unit: its number, and a hash of its prompts."""
        prompts = (json.dumps([problem.prompt_id for problem in unit]) for unit in self.units)
        return [f"{k}-{hashlib.sha256(text.encode()).hexdigest()[:16]}" for k, text in enumerate(prompts)]

    def done(self) -> int:
        """How many units are finished; writes nothing.

        Raises:
            InputError: the folder was made with other settings, or holds something else; there are no units.
        """
        return len(self._finished())

    def _finished(self) -> dict[str, Path]:
        """The shards of finished units, by name; raises as `done`."""
        if not self.units:
            raise InputError("there are no prompts", str(self.folder))
        finished = units_of(self.folder)
        if not finished:
            if holds_something(self.folder, [COLLECTED]):
                raise InputError("is not empty and was not collected here; choose another --output_dir",
                                 str(self.folder))  # fmt: skip
            return {}
        changed = changed_settings(read_manifest(self.folder / COLLECTED), self.settings)
        if changed:
            raise InputError(f"was collected with another {', '.join(changed)}; choose another --output_dir",
                             str(self.folder))  # fmt: skip
        if other := finished.keys() - set(self.names):
            raise InputError("is a work unit of other prompts than these; choose another --output_dir",
                             str(finished[min(other)]))  # fmt: skip
        return finished

    @contextmanager
    def held(self, doing: str) -> Iterator[dict[str, Path]]:
        """The folder checked, locked and with its manifest; the shards of finished units, by name. Where none is
        finished at the end, the manifest goes again.

        Args:
            doing: see `files.locked`.

        Raises:
            InputError: as `done`, or another process holds the folder.
        """
        manifest = self.folder / COLLECTED
        with locked(self.folder, doing):
            finished = self._finished()
            try:
                if not finished:
                    self._write_manifest(manifest)
                yield finished
            finally:
                if not holds_something(self.folder, [COLLECTED]):
                    manifest.unlink(missing_ok=True)

    def _write_manifest(self, manifest: Path) -> None:
        """Says so where a damaged one is replaced."""
        try:
            if manifest.exists():
                read_manifest(manifest)
        except InputError:
            sys.stderr.write(f"{manifest}: was damaged; no work unit was finished, so it is written anew\n")
        write_json(manifest, self.settings)

    def finish(
        self,
        make: Callable[[Unit, Advance], Iterable[Episode]],
        label: str,
        samples: int = 1,
        counted: str = "responses",
    ) -> EpisodeStore:
        """The episodes of all units, in order; those that are not there yet are made and written, each unit whole.

        Args:
            make: a unit, and who is told of progress, to its episodes.
            label: for the progress bar.
            samples: what is counted, a problem.
            counted: what it is, in the plural.

        Raises:
            InputError: as `done`, or another process holds the folder.
        """
        with self.held(label) as finished:
            todo = {name: unit for name, unit in zip(self.names, self.units, strict=True) if name not in finished}
            tracked = track_units(list(todo.values()), label, samples, counted)
            for (unit, advance), name in zip(tracked, todo, strict=True):
                finished[name] = append_episodes(self.folder, make(unit, advance), name)
        return EpisodeStore(self.folder, [finished[name] for name in self.names])
