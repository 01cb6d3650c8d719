"""Work units: atomic, resumable parts of a long rollout. What is made of an unfinished one is kept in parts."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from stepcredit.episodes.delimiters import COLLECTED
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import EpisodeStore, append_episodes, load_episodes, units_of
from stepcredit.errors import InputError, quoted
from stepcredit.files import changed_settings, holds_something, locked, read_manifest, write_json
from stepcredit.hashes import content_of
from stepcredit.progress import Advance, track_units
from stepcredit.tasks.task import Problem, Task

UNIT_ROWS = 512
"""Approximate number of responses or conversations per work unit."""


def work_units(problems: Sequence[Problem], samples: int, rows: int | None = None) -> list[Sequence[Problem]]:
    """Splits problems into units of about `rows` responses (default `UNIT_ROWS`), the same in every run.

    Raises:
        InputError: two problems have the same id.
    """
    twice = [name for name, count in Counter(problem.prompt_id for problem in problems).items() if count > 1]
    if twice:
        raise InputError(
            f"{len(twice)} ids of problems occur twice, {quoted(twice[0])} first; give each its own", "task"
        )
    size = max(1, (rows or UNIT_ROWS) // samples)
    return [problems[i : i + size] for i in range(0, len(problems), size)]


def samples_of(problems: Iterable[Problem], count: int) -> list[tuple[Problem, int]]:
    """Returns `count` samples of each problem, problem by problem."""
    return [(problem, k) for problem in problems for k in range(count)]


def settings_of(config: Any, task: Task, *left_out: str) -> dict[str, Any]:
    """Returns the settings that determine the episodes: those of the config, without paths and the fields
    `left_out`, and those of the task."""
    versions = {"task_version": task.version, "source_versions": task.source_versions}
    content = {CONTENT: content_of(getattr(config, "model", None))}
    settings = {**asdict(config), **versions, **content, "step_delimiters": list(task.step_delimiters)}
    return {name: value for name, value in settings.items() if name not in ("output_dir", "data", "workers", *left_out)}


Unit = Sequence[Problem]
"""Problems of one work unit."""
Sample = tuple[Problem, int]
"""A problem and the number of one of its samples."""
Keep = Callable[[list[Episode]], object]
"""Keeps episodes of an unfinished work unit."""
Draw = Callable[[Sequence[Sample], Advance, Keep], list[Episode]]
"""Makes an episode of each sample, in order, and keeps them batch by batch."""
CONTENT = "content of the model"
"""Name of the hash of a policy's files, among the settings."""
PARTS = ".unfinished"
"""Folder of a folder per unfinished unit, with a shard per batch of episodes."""


@dataclass
class Unfinished:
    """What has been made of a work unit; a killed run loses at most the batch in flight.

    Whole batches are kept, so that the rest is drawn in the batches of an undisturbed run, bit for bit.

    Attributes:
        folder: one shard per batch.
        episodes: the episodes in it.
    """

    folder: Path
    episodes: list[Episode] = field(default_factory=list)

    def __post_init__(self) -> None:
        if any(self.folder.glob("*.parquet")):
            self.episodes = list(load_episodes(self.folder))

    def keep(self, episodes: list[Episode]) -> None:
        """Writes a batch of episodes."""
        append_episodes(self.folder, episodes)
        self.episodes += episodes

    def complete(self, samples: Sequence[Sample], draw: Draw, advance: Advance) -> list[Episode]:
        """Returns an episode of each sample, in order; those that are not kept yet are drawn and kept."""
        kept = {(episode.prompt_id, episode.sample): episode for episode in self.episodes}
        missing = [(problem, k) for problem, k in samples if (problem.prompt_id, k) not in kept]
        if len(missing) < len(samples):
            advance(len(samples) - len(missing))
        drawn = draw(missing, advance, self.keep) if missing else []
        kept |= {(episode.prompt_id, episode.sample): episode for episode in drawn}
        return [kept[problem.prompt_id, k] for problem, k in samples]


@dataclass(frozen=True)
class WorkFolder:
    """Resumable writer of a folder of episodes, one work unit at a time.

    Each unit is one shard with the unit's name; shards without one, such as imported episodes, are left alone. The
    settings are fixed once the first episodes are kept.

    Attributes:
        folder: folder of one shard per finished unit and a manifest of the settings.
        settings: settings that determine the episodes; a folder with other settings is not resumed.
        units: the work units, in order.
        instead: what to do where the settings are others.
    """

    folder: Path
    settings: dict[str, Any]
    units: Sequence[Unit]
    instead: str = "choose another --output_dir"

    @cached_property
    def names(self) -> list[str]:
        """Names of the units: index and hash of the prompt ids."""
        prompts = (json.dumps([problem.prompt_id for problem in unit]) for unit in self.units)
        return [f"{k}-{hashlib.sha256(text.encode()).hexdigest()[:16]}" for k, text in enumerate(prompts)]

    def done(self) -> int:
        """Returns the number of finished units; writes nothing.

        Raises:
            InputError: the folder has other settings or other contents, or there are no units.
        """
        return len(self._finished())

    def _finished(self) -> dict[str, Path]:
        """Returns the shards of finished units by name; raises as `done`."""
        if not self.units:
            raise InputError("there are no prompts", str(self.folder))
        finished = units_of(self.folder)
        if not finished and not (self.folder / PARTS).is_dir():
            if holds_something(self.folder, [COLLECTED]):
                raise InputError("is not empty and was not collected here; choose another --output_dir",
                                 str(self.folder))  # fmt: skip
            return {}
        changed = changed_settings(read_manifest(self.folder / COLLECTED), self.settings)
        if changed:
            raise InputError(f"was collected with another {', '.join(changed)}; {self.instead}", str(self.folder))
        if other := finished.keys() - set(self.names):
            raise InputError("is a work unit of other prompts than these; choose another --output_dir",
                             str(finished[min(other)]))  # fmt: skip
        return finished

    @contextmanager
    def held(self, doing: str) -> Iterator[dict[str, Path]]:
        """Checks and locks the folder and writes its manifest; yields the shards of finished units by name.

        The manifest is removed if no unit is finished at the end.

        Args:
            doing: see `files.locked`.

        Raises:
            InputError: as `done`, or another process has locked the folder.
        """
        manifest = self.folder / COLLECTED
        with locked(self.folder, doing):
            finished = self._finished()
            try:
                if not finished and not (self.folder / PARTS).is_dir():
                    self._write_manifest(manifest)
                for name in finished:  # left by a kill after the last one was finished
                    shutil.rmtree(self.folder / PARTS / name, ignore_errors=True)
                yield finished
            finally:
                for empty in [*(self.folder / PARTS).glob("*"), self.folder / PARTS]:
                    with suppress(OSError):  # not empty, or not there
                        empty.rmdir()
                if not holds_something(self.folder, [COLLECTED]):
                    manifest.unlink(missing_ok=True)

    def _write_manifest(self, manifest: Path) -> None:
        """Write the manifest; warns if it replaces a damaged one."""
        try:
            if manifest.exists():
                read_manifest(manifest)
        except InputError:
            sys.stderr.write(f"{manifest}: was damaged; no work unit was finished, so it is rewritten\n")
        write_json(manifest, self.settings)

    def finish(
        self,
        make: Callable[[Unit, Advance, Unfinished], Iterable[Episode]],
        label: str,
        samples: int = 1,
        counted: str = "responses",
    ) -> EpisodeStore:
        """Makes and writes the missing units, each atomically; returns the episodes of all units, in order.

        Args:
            make: function from a unit, a progress callback, and what is there of the unit, to its episodes.
            label: label of the progress bar.
            samples: number of counted items per problem.
            counted: name of the counted items, in the plural.

        Raises:
            InputError: as `done`, or another process has locked the folder.
        """
        with self.held(label) as finished:
            todo = {name: unit for name, unit in zip(self.names, self.units, strict=True) if name not in finished}
            tracked = track_units(list(todo.values()), label, samples, counted)
            for (unit, advance), name in zip(tracked, todo, strict=True):
                parts = self.folder / PARTS / name
                finished[name] = append_episodes(self.folder, make(unit, advance, Unfinished(parts)), name)
                shutil.rmtree(parts, ignore_errors=True)
        return EpisodeStore(self.folder, [finished[name] for name in self.names])
