"""Grade: rows with a response and a gold answer → the same rows with a verdict and a reward."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

from stepcredit.errors import InputError
from stepcredit.files import why_not_written
from stepcredit.grading.comparison import UNREAD_GOLD
from stepcredit.grading.grade import Grade
from stepcredit.grading.grader import SECONDS, Grader
from stepcredit.grading.style import AnswerStyle, Kind, Marker
from stepcredit.logs.foreign.log_files import read_logs
from stepcredit.logs.formats import Row
from stepcredit.logs.grade_report import GradeReport, Tally
from stepcredit.logs.graded_rows import RowReader, UngradedRow
from stepcredit.logs.import_logs import parse_columns
from stepcredit.logs.writers import RowWriter, output_path
from stepcredit.progress import Meter
from stepcredit.settings import Limits, Settings
from stepcredit.verdict import Verdict
from stepcredit.version import __version__

ROWS_PER_CHUNK = 256
"""Rows per chunk, which are read, graded and written together; an interrupted run loses at most one chunk."""

_MARKERS = {Kind.AUTO: None, Kind.NUMBER: Marker.HASHES, Kind.EXPRESSION: Marker.BOXED}


@dataclass
class GradeConfig(Settings):
    """Compare responses with gold answers: adds reward, verdict, extracted, strict and grade_reason to every row.

    A row has a response (or completion: text, or chat messages, whose last assistant message counts) and an answer (or
    solution). Of a worked solution the gold answer is what follows its last ####, or its last \\boxed{}. A truncated
    response is not graded; an undecided one, as with a gold answer that cannot be read, has no reward. Run it again to
    go on where it stopped.
    """

    file: Annotated[str, Limits(not_empty=True)] = field(
        metadata={"help": "Rows: .jsonl, .json, .csv (each also .gz) or .parquet.", "positional": True}
    )
    joined: list[str] = field(
        default_factory=list,
        metadata={
            "help": "With the responses of a batch (OpenAI, vLLM run_batch): the request file, and files of answers, "
            "joined by custom_id.",
        },
        kw_only=True,
    )
    output: Annotated[str, Limits(not_empty=True)] = field(metadata={"help": "The file to write: .jsonl or .jsonl.gz."})
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Where names differ, ours=theirs: response=output answer=gold."},
    )
    answers: str = field(
        default="auto",
        metadata={
            "help": "What answers are, so how responses are read: a number (as in GSM8K), or anything (as in MATH). "
            "auto: what the gold answer is; where that is a plain number, dollars are money.",
            "choices": ["auto", "number", "expression"],
        },
    )
    marker: str = field(
        default="auto",
        metadata={
            "help": "The marker that the prompt asked for; an answer behind it is strict. "
            "auto: '####' for numbers, boxed for expressions, with --answers auto either.",
            "choices": ["auto", "####", "boxed"],
        },
    )
    workers: Annotated[int, Limits(at_least=1)] = field(default=1, metadata={"help": "Processes for the algebra."})
    seconds: Annotated[float, Limits(above=0)] = field(
        default=SECONDS, metadata={"help": "Processor time of one answer; then it is undecided."}
    )
    skip_bad: bool = field(
        default=False,
        metadata={"help": "Go on after a bad row and keep it in OUT.quarantine.jsonl; otherwise it stops the work."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace a file that is there, and columns of the names that are added."}
    )


def grade_rows(config: GradeConfig) -> GradeReport:
    """Grades the rows of a file (see `GradeConfig`) in order, one chunk at a time.

    The output file appears when it is complete. An interrupted run is resumed from the files next to it.

    Raises:
        InputError: a setting is invalid, the file cannot be read or has no rows to grade, the output exists or was
            started with different settings, a row already has one of the added columns, or, without `skip_bad`, a row
            is bad.
    """
    style = _style(config)
    reader = RowReader(parse_columns(config.columns), overwrite=config.overwrite)
    out = output_path(config.output)
    files = [config.file, *config.joined]
    rows = chain.from_iterable(read_logs(files))
    if out.exists() and any(out.samefile(file) for file in files):
        raise InputError(f"{out} is the file that is read; choose another", "output")
    try:
        with (
            RowWriter(out, _settings(config, style, reader), overwrite=config.overwrite) as writer,
            closing(_graded_chunks(rows, reader, config, style, skip=writer.done)) as chunks,
        ):
            tally = Tally(writer)
            for graded, bad in chunks:
                writer.write(graded, bad)
                for row in graded:
                    tally.add(row)
            report = tally.report(reader)
            writer.finish()
    except OSError as error:
        raise InputError(f"{out} {why_not_written(error)}", "output") from error
    return report


def _style(config: GradeConfig) -> AnswerStyle:
    kind = Kind(config.answers)
    return AnswerStyle(_MARKERS[kind] if config.marker == "auto" else Marker(config.marker), kind)


def _settings(config: GradeConfig, style: AnswerStyle, reader: RowReader) -> dict[str, Any]:
    """All settings and inputs that determine a verdict."""
    file = Path(config.file).stat()
    return {
        "file": Path(config.file).name,
        "file size": file.st_size,
        "file mtime_ns": file.st_mtime_ns,
        **{f"file {k}": _of_file(file) for k, file in enumerate(config.joined, 2)},
        "columns": dict(sorted(reader.columns.items())),
        "answers": style.kind,
        "marker": style.marker or "auto",
        "seconds": config.seconds,
        "stepcredit": __version__,
        "math-verify": version("math-verify"),
    }


def _of_file(file: str) -> list[Any]:
    stat = Path(file).stat()
    return [Path(file).name, stat.st_size, stat.st_mtime_ns]


def _graded_chunks(
    rows: Iterator[Row], reader: RowReader, config: GradeConfig, style: AnswerStyle, *, skip: int
) -> Generator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Yields (graded rows, bad rows) of each chunk after the first `skip` rows, and shows the progress."""
    meter = Meter(f"grading {Path(config.file).name}", None, "rows")
    with meter, Grader(config.workers, config.seconds) as grader:
        numbered = enumerate(_metered(rows, meter), 1)
        for _ in islice(numbered, skip):
            pass
        while chunk := list(islice(numbered, ROWS_PER_CHUNK)):
            ungraded, bad = _sorted_out(chunk, reader, skip_bad=config.skip_bad)
            grades = _grades(ungraded, grader, style)
            yield [row.graded(grade) for row, grade in zip(ungraded, grades, strict=True)], bad


def _metered(rows: Iterator[Row], meter: Meter) -> Iterator[Row]:
    for row in rows:
        yield row
        meter.advance(share=row.progress)


def _sorted_out(
    chunk: Sequence[tuple[int, Row]], reader: RowReader, *, skip_bad: bool
) -> tuple[list[UngradedRow], list[dict[str, Any]]]:
    """Returns (good rows, bad rows for quarantine)."""
    good: list[UngradedRow] = []
    bad: list[dict[str, Any]] = []
    for number, row in chunk:
        reader.refuse_ours(row)
        try:
            good.append(reader.ungraded(row))
        except InputError as error:
            if not skip_bad:
                raise
            raw = row.raw if row.data is None else json.dumps(row.data, ensure_ascii=False, default=str)
            bad.append({"number": number, "where": row.where, "error": error.what, "row": raw})
    return good, bad


def _grades(rows: Sequence[UngradedRow], grader: Grader, style: AnswerStyle) -> Iterator[Grade | None]:
    """Yields the grade of each row in order; None for truncated responses."""
    pairs = ((row.response, row.gold) for row in rows if row.is_graded)
    grades = grader.grade_all(pairs, style)
    for row in rows:
        if row.truncated:
            yield None
        elif row.cut is not None:
            yield Grade(Verdict.UNDECIDED, None, f"the response ended with {row.cut}", strict=False)
        elif row.unread is not None:
            yield Grade(Verdict.UNDECIDED, None, f"{UNREAD_GOLD}: {row.unread}", strict=False)
        else:
            yield next(grades)
