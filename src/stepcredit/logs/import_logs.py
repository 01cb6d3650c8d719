"""Import: logs of scored responses → a folder of episodes, all of it or nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Annotated

from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.errors import InputError
from stepcredit.files import draft_of, holds_something, locked, remove_leftovers, why_not_written
from stepcredit.flags import flag
from stepcredit.logs.columns import ImportRules
from stepcredit.logs.foreign.log_files import read_logs
from stepcredit.logs.formats import Row
from stepcredit.logs.hub import Subset
from stepcredit.logs.importers import EpisodeImporter
from stepcredit.logs.sample_numbers import SampleNumbers
from stepcredit.progress import Meter
from stepcredit.settings import Limits, Settings
from stepcredit.verdict import REWARD_THRESHOLD, Verdict

EPISODES_PER_SHARD = 10_000
QUARANTINE = "quarantine.jsonl"


@dataclass
class ImportConfig(Settings):
    """Convert logs to episodes: rows with a prompt, a completion and a reward or label; chat with tools; or steps.
    Errors name the file and line of a row that cannot be read or that repeats a sample of a prompt."""

    files: Annotated[list[str], Limits(not_empty=True)] = field(
        metadata={
            "help": "Logs: .jsonl (or .ndjson), .json, .csv (each also .gz) or .parquet; of verifiers, NeMo-RL and "
            "Inspect (.eval); or hub:OWNER/NAME, a dataset of the hub.",
            "positional": True,
        }
    )
    output_dir: Annotated[str, Limits(not_empty=True)] = field(metadata=flag("output_dir"))
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Where names differ, ours=theirs: prompt=question completion=answer_text."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of datasets of the hub. Default: their only one."}
    )
    dataset_split: str = field(default="train", metadata={"help": "Split of datasets of the hub."})
    chat: bool = field(
        default=False,
        metadata={
            "help": "Make prompts in plain text a message of the user, and completions one of the assistant: for a "
            "policy with a chat template."
        },
    )
    reward_range: list[float] = field(
        default_factory=lambda: [0.0, 1.0],
        metadata={"help": "Lowest and highest reward; a row outside is bad."},
    )
    skip_bad: bool = field(
        default=False,
        metadata={"help": f"Go on after a bad row and keep it in {QUARANTINE}; otherwise nothing is written."},
    )
    append: bool = field(default=False, metadata={"help": "Add to the episodes that the folder holds."})


@dataclass(frozen=True)
class ImportReport:
    """Result of an import.

    Attributes:
        out: the folder of episodes.
        rows: rows read, good and bad.
        episodes: episodes written.
        undecided: episodes without a reward, because of their verdict or stop reason.
        graded: whether there is a reward other than 0 and 1.
        total: episodes in the folder, with those of before.
        bad: quarantined rows.
        shards: shards written.
        quarantine: the file of bad rows, if any.
        first_error: the error of the first bad row.
    """

    out: Path
    rows: int
    episodes: int
    undecided: int
    graded: bool
    total: int
    bad: int
    shards: int
    quarantine: Path | None
    first_error: str | None

    def summary(self) -> str:
        """A few lines with the counts and the next command."""
        undecided = f", {self.undecided:,} of them undecided" if self.undecided else ""
        total = f"; it holds {self.total:,} now" if self.total > self.episodes else ""
        lines = [f"{self.rows:,} rows read, {self.episodes:,} episodes written to {self.out}{undecided}{total}"]
        if self.quarantine:
            lines += [f"{self.bad:,} bad rows are in {self.quarantine}; the first: {self.first_error}"]
        if self.graded:
            lines += [
                f"Some rewards are neither 0 nor 1; right is a reward of at least {REWARD_THRESHOLD:g}: give "
                "--reward_threshold to inspect, to credit, and to train with rft, dpo, kto and topr"
            ]
        return "\n".join([*lines, f"Look at them with: stepcredit inspect {self.out}"])


def import_logs(config: ImportConfig) -> ImportReport:
    """Reads the logs and writes the episodes (see `ImportConfig`).

    A new folder appears when it is complete; appended episodes are written atomically as one shard, under a lock on
    the folder.

    Raises:
        InputError: the folder is not empty or in use, a file cannot be read, there is nothing to import, or, without
            `skip_bad`, a row is bad. Nothing is written.
    """
    rules = ImportRules.of_range(config.reward_range, parse_columns(config.columns), config.chat)
    if not config.files:
        raise InputError("name at least one file", "files")
    sources = read_logs(config.files, Subset(config.dataset_config, config.dataset_split))
    out = Path(config.output_dir)
    is_new = not holds_something(out)
    if not is_new and not config.append:
        raise InputError(f"{out} is not empty; give another folder, or --append to add to it", "output_dir")
    with (
        nullcontext() if is_new else locked(out, "stepcredit import"),
        tempfile.TemporaryFile("w+", encoding="utf-8") as quarantine,
    ):
        importer = EpisodeImporter(rules, None if is_new else _stored_samples(out))
        intake = _Intake(_progress(config.files, sources), importer, quarantine if config.skip_bad else None)
        try:
            shards = _create(out, intake) if is_new else _append(out, intake)
        except OSError as error:
            raise InputError(f"{out} {why_not_written(error)}", "output_dir") from error
    quarantined = out / QUARANTINE if intake.bad else None
    return ImportReport(
        out=out,
        rows=intake.rows,
        episodes=intake.episodes,
        undecided=intake.undecided,
        graded=intake.graded,
        total=len(load_episodes(out)),
        bad=intake.bad,
        shards=shards,
        quarantine=quarantined,
        first_error=intake.first_error,
    )


def parse_columns(columns: Sequence[str]) -> dict[str, str]:
    """Parses `["prompt=question"]` as `{"prompt": "question"}`.

    Raises:
        InputError: an entry without "=", or a name given twice.
    """
    mapping: dict[str, str] = {}
    for entry in columns:
        ours, equals, theirs = entry.partition("=")
        if not (ours and equals and theirs) or ours in mapping:
            raise InputError(f"{entry!r}: give each of our names once, as ours=theirs", "columns")
        mapping[ours] = theirs
    return mapping


def _stored_samples(out: Path) -> SampleNumbers:
    """The samples in a folder, with the numbers of their episodes."""
    stored = SampleNumbers()
    parts = load_episodes(out).rows(["prompt_id", "sample"])
    named = (pair for rows in parts for pair in zip(*rows.batch.to_pydict().values(), strict=True))
    for number, (prompt_id, sample) in enumerate(named):
        stored.add(prompt_id, sample, f"{out}: episode {number}")
    return stored


class _Intake(Iterator[Episode]):
    """Iterator from rows to episodes, with counts; bad rows raise or, with a quarantine file, are written to it."""

    def __init__(self, rows: Iterator[Row], importer: EpisodeImporter, quarantine: IO[str] | None) -> None:
        self._source, self._importer, self._quarantine = rows, importer, quarantine
        self.rows = self.episodes = self.undecided = self.bad = 0
        self.graded = False
        self.first_error: str | None = None

    def __next__(self) -> Episode:
        while True:
            row = next(self._source)
            self.rows += 1
            try:
                episode = self._importer.episode(row)
            except InputError as error:
                self._reject(row, error)
            else:
                self.episodes += 1
                self.undecided += episode.verdict is Verdict.UNDECIDED
                self.graded |= episode.reward not in (None, 0, 1)
                return episode

    def _reject(self, row: Row, error: InputError) -> None:
        if self._quarantine is None:
            raise error
        self.bad += 1
        self.first_error = self.first_error or str(error)
        raw = row.raw if row.data is None else json.dumps(row.data, ensure_ascii=False, default=str)
        entry = {"where": row.where, "error": error.what, "row": raw}
        self._quarantine.write(json.dumps(entry) + "\n")

    def check_not_empty(self) -> None:
        """Raises if no episode was imported."""
        if not self.episodes:
            raise InputError(
                f"nothing to import: {self.rows} rows, all of them bad; the first: {self.first_error}"
                if self.rows
                else "nothing to import: the files have no rows"
            )

    def write_quarantine(self, folder: Path) -> None:
        """Appends the bad rows to the quarantine file of the folder."""
        if self._quarantine is not None and self.bad:
            self._quarantine.seek(0)
            with (folder / QUARANTINE).open("a", encoding="utf-8") as file:
                shutil.copyfileobj(self._quarantine, file)


def _create(out: Path, intake: _Intake) -> int:
    """Writes a folder next to `out` and renames it at the end; returns the number of shards."""
    with locked(out, "stepcredit import"):
        pass  # checks that no other process writes to it, and removes the lock of a killed one
    target = out.resolve()
    staging = draft_of(target)
    try:
        staging.mkdir(parents=True)
        remove_leftovers(target.parent)
        shards = 0
        for first in intake:
            append_episodes(staging, chain([first], islice(intake, EPISODES_PER_SHARD - 1)))
            shards += 1
        intake.check_not_empty()
        intake.write_quarantine(staging)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return shards


def _append(out: Path, intake: _Intake) -> int:
    """Writes all episodes as one shard, because only a single file can be added atomically."""
    first = list(islice(intake, 1))
    intake.check_not_empty()
    append_episodes(out, chain(first, intake))
    intake.write_quarantine(out)
    return 1


def _progress(files: Sequence[str], sources: Sequence[Iterator[Row]]) -> Iterator[Row]:
    """Yields the rows of all files and shows the progress."""
    with Meter("importing", None, "rows") as meter:
        for index, (file, rows) in enumerate(zip(files, sources, strict=True)):
            meter.label = f"importing {Path(file).name}"
            for row in rows:
                yield row
                meter.advance(share=(index + row.progress) / len(sources))
