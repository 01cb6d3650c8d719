"""Grade: rows with a response and a gold answer → the same rows with a verdict and a reward."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa

from stepcredit.errors import InputError
from stepcredit.grading.comparison import UNREAD_GOLD
from stepcredit.grading.extraction.boxes import boxed_gold
from stepcredit.grading.grade import Grade
from stepcredit.grading.grader import SECONDS, Grader
from stepcredit.grading.style import AnswerStyle, Kind, Marker
from stepcredit.logs.columns import ImportRules, RowView, flag, shown
from stepcredit.logs.formats import Row, read_rows
from stepcredit.logs.import_logs import parse_columns
from stepcredit.logs.messages import turns
from stepcredit.logs.stop_reasons import cut_by_limit
from stepcredit.logs.writers import RowWriter, output_path
from stepcredit.progress import Meter
from stepcredit.verdict import Verdict
from stepcredit.version import __version__

ROWS_PER_CHUNK = 256
"""Rows that are read, graded and written together; a kill costs as many."""
TRUNCATED = "truncated"
"""The `grade_reason` of a response that a length limit cut: it is not graded."""

_ADDED = {
    "reward": pa.float64(),
    "verdict": pa.string(),
    "extracted": pa.string(),
    "strict": pa.bool_(),
    "grade_reason": pa.string(),
}
_RESPONSES = ("response", "completion")
_ANSWERS = ("answer", "solution")
_STOPS = ("stop_reason", "finish_reason")
_NAMES = (*_RESPONSES, *_ANSWERS, "truncated", *_STOPS)
_MARKERS = {Kind.AUTO: None, Kind.NUMBER: Marker.HASHES, Kind.EXPRESSION: Marker.BOXED}
_PROMPTS = ("prompt", "question", "problem")


@dataclass
class GradeConfig:
    """Compare responses with gold answers: adds reward, verdict, extracted, strict and grade_reason to every row.

    A row has a response (or completion: text, or chat messages, whose last assistant message counts) and an answer (or
    solution). Of a worked solution the gold answer is what follows its last ####, or its last \\boxed{}. A truncated
    response is not graded; an undecided one, as with a gold answer that cannot be read, has no reward. Run it again to
    go on where it stopped.
    """

    file: str = field(metadata={"help": "Rows: .jsonl, .json, .csv (each also .gz) or .parquet.", "positional": True})
    output: str = field(metadata={"help": "The file to write: .jsonl, .jsonl.gz or .parquet."})
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
    workers: int = field(default=1, metadata={"help": "Processes for the algebra."})
    seconds: float = field(default=SECONDS, metadata={"help": "Processor time of one answer; then it is undecided."})
    skip_bad: bool = field(
        default=False,
        metadata={"help": "Go on after a bad row and keep it in OUT.quarantine.jsonl; otherwise it stops the work."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace a file that is there, and columns of the names that are added."}
    )


@dataclass(frozen=True)
class GradeReport:
    """What grading found.

    Attributes:
        out: the file of graded rows.
        rows: read; graded, truncated and bad together.
        right: responses with a right answer.
        strict: those of them whose answer stood behind the marker that the prompt asked for.
        wrong: responses with a wrong answer, or none.
        undecided: responses that the grader could not decide.
        unread: those of them whose gold answer cannot be read.
        truncated: responses that a length limit had cut; not graded.
        bad: rows that went to quarantine.
        resumed: rows that an earlier, interrupted run had done.
        quarantine: the file of bad rows, where there were any.
        first_error: what was wrong with the first bad row.
        import_columns: the `--columns` with which `stepcredit import` reads the file; None where it cannot.
    """

    out: Path
    rows: int
    right: int
    strict: int
    wrong: int
    undecided: int
    unread: int
    truncated: int
    bad: int
    resumed: int
    quarantine: Path | None = None
    first_error: str | None = None
    import_columns: tuple[str, ...] | None = None

    @property
    def accuracy(self) -> float:
        """The share of right responses; the undecided and the truncated are not right."""
        return self.right / (self.rows - self.bad)

    @property
    def strict_accuracy(self) -> float:
        """The share of responses that are right behind the marker that the prompt asked for."""
        return self.strict / (self.rows - self.bad)

    def summary(self) -> str:
        """A few lines: what was found, where it is, and what to do next."""
        unread = f" ({self.unread:,} for a gold answer that cannot be read)" if self.unread else ""
        lines = [
            f"{self.rows - self.bad:,} responses, accuracy {self.accuracy:.1%} (strict {self.strict_accuracy:.1%}): "
            f"{self.right:,} right, {self.wrong:,} wrong, {self.undecided:,} undecided{unread}, "
            f"{self.truncated:,} truncated; written to {self.out}"
        ]
        if self.resumed:
            lines += [f"{self.resumed:,} rows were done by an earlier run"]
        if self.quarantine:
            lines += [f"{self.bad:,} bad rows are in {self.quarantine}; the first: {self.first_error}"]
        return "\n".join([*lines, *self._next()])

    def _next(self) -> list[str]:
        if self.import_columns is None:
            return []
        columns = ["--columns", *self.import_columns] if self.import_columns else []
        return ["Next: " + shlex.join(["stepcredit", "import", str(self.out), "--output_dir", "episodes", *columns])]


def grade_rows(config: GradeConfig) -> GradeReport:
    """Grade the rows of a file (see `GradeConfig`), a chunk at a time and in their order.

    The file appears when it is complete. What an interrupted run has done is kept beside it and not done again.

    Raises:
        InputError: a setting is wrong, the file cannot be read or holds nothing to grade, `out` is there already or was
            begun with other settings, a row has a column of the names that are added, or, without `skip_bad`, a row
            is bad.
    """
    style = _style(config)
    reader = RowReader(parse_columns(config.columns), overwrite=config.overwrite)
    out = output_path(config.output)
    rows = read_rows(config.file)
    if out.exists() and out.samefile(config.file):
        raise InputError("is the file that is read; choose another", "output")
    try:
        with RowWriter(out, _asked(config, style, reader), _ADDED, overwrite=config.overwrite) as writer:
            tally = _Tally(writer)
            with (
                closing(_progress(rows, config.file)) as shown_rows,
                _Crew(config.workers, config.seconds, style) as crew,
            ):
                _grade_chunks(shown_rows, reader, crew, writer, tally, skip_bad=config.skip_bad)
            tally.check_not_empty()
            writer.finish()
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror})", "output") from error
    return tally.report(reader)


def gold_answer(value: Any) -> str:
    """The gold answer alone: of a worked solution what follows its last `####`, or its last `\\boxed{}`.

    Args:
        value: text, or a number; 145.0 is "145".

    Raises:
        InputError: neither of them, or no answer in it.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise InputError(f"must be text or a number, not {shown(value)}", "answer")
    if not isinstance(value, str):
        return _plain_number(value)
    text = value.rpartition("####")[2].strip()
    if any(command in text for command in ("\\boxed", "\\fbox", "\\framebox")):
        text = (boxed_gold(text) or "").strip()
    if not text:
        raise InputError(f"there is no answer in {shown(value)}", "answer")
    return text


def _plain_number(value: int | float | Decimal) -> str:
    if not isinstance(value, int) and not math.isfinite(value):
        raise InputError(f"{value} is not a finite number", "answer")
    text = format(Decimal(str(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _style(config: GradeConfig) -> AnswerStyle:
    if config.workers < 1:
        raise InputError(f"{config.workers} must be 1 or more", "workers")
    if not 0 < config.seconds < math.inf:
        raise InputError(f"{config.seconds} must be above 0", "seconds")
    _check_choice("answers", config.answers, [*_MARKERS])
    _check_choice("marker", config.marker, ["auto", Marker.HASHES, Marker.BOXED])
    kind = Kind(config.answers)
    return AnswerStyle(_MARKERS[kind] if config.marker == "auto" else Marker(config.marker), kind)


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{value!r} is none of {', '.join(known)}", name)


def _asked(config: GradeConfig, style: AnswerStyle, reader: RowReader) -> dict[str, Any]:
    """All that a verdict depends on."""
    file = Path(config.file).stat()
    return {
        "file": Path(config.file).name,
        "file size": file.st_size,
        "file mtime_ns": file.st_mtime_ns,
        "columns": dict(sorted(reader.columns.items())),
        "answers": style.kind,
        "marker": style.marker or "auto",
        "seconds": config.seconds,
        "stepcredit": __version__,
        "math-verify": version("math-verify"),
    }


# ---- rows --------------------------------------------------------------------------------------------


class Question(NamedTuple):
    """What a row asks: is this response right?

    Attributes:
        cells: the row's columns, as JSON has them.
        response: what the policy wrote.
        gold: the gold answer alone; empty where it cannot be read.
        unread: why it cannot be read.
        truncated: whether a length limit cut the response.
    """

    cells: dict[str, Any]
    response: str
    gold: str
    unread: str | None
    truncated: bool

    def graded(self, grade: Grade | None) -> dict[str, Any]:
        """The row with its grade; None where it was truncated."""
        kept = {name: value for name, value in self.cells.items() if name not in _ADDED}
        if grade is None:
            return {**kept, **dict.fromkeys(_ADDED), "grade_reason": TRUNCATED}
        found = (grade.reward, str(grade.verdict), grade.extracted, grade.strict, grade.reason)
        return {**kept, **dict(zip(_ADDED, found, strict=True))}


class RowReader:
    """Finds response, gold answer and stop reason in rows of somebody's log.

    Args:
        columns: our name → the name in the log, where they differ.
        overwrite: rows may have columns of the names that are added.

    Raises:
        InputError: a name that is none of ours.
    """

    def __init__(self, columns: Mapping[str, str], *, overwrite: bool = False) -> None:
        for ours in columns:
            if ours not in _NAMES:
                raise InputError(f"{ours!r} is none of {', '.join(_NAMES)}", "columns")
        self.columns = columns
        self._overwrite = overwrite
        self._rules = ImportRules({ours: theirs for ours, theirs in columns.items() if ours not in _ANSWERS})
        self._answers = [columns[name] for name in _ANSWERS if name in columns] or _ANSWERS

    def refuse_ours(self, row: Row) -> None:
        """Raises where a row has a column that would be lost."""
        taken = [] if self._overwrite else [name for name in _ADDED if name in (row.data or {})]
        if taken:
            raise InputError(f"the row has {', '.join(map(repr, taken))} already; --overwrite replaces it", row.where)

    def question(self, row: Row) -> Question:
        """What a row asks.

        Raises:
            InputError: the row's own error, or what its columns lack; with file and line.
        """
        if row.data is None:
            raise row.error or InputError("a row without data", row.where)
        try:
            view = RowView(row.data, self._rules, row.text_cells)
            response, (gold, unread) = self._response(view), self._gold(view, row.data)
            return Question(self._cells(row.data, view, row.text_cells), response, gold, unread, _is_truncated(view))
        except InputError as error:
            raise InputError(str(error), row.where) from error

    def response_column(self, row: Mapping[str, Any]) -> str:
        """The column of a graded row that holds the response."""
        return next(theirs for name, theirs in self._response_names() if row.get(theirs) is not None)

    def _response_names(self) -> list[tuple[str, str]]:
        mapped = [(name, self.columns[name]) for name in _RESPONSES if name in self.columns]
        return mapped or [(name, name) for name in _RESPONSES]

    def _response(self, view: RowView) -> str:
        name = next((name for name, _ in self._response_names() if view.has(name)), None)
        if name is None:
            wanted = " or ".join(theirs for _, theirs in self._response_names())
            raise InputError(
                f"no response: expected a column {wanted}, with a value; the row has {view.names()} "
                "(another name: --columns response=…)"
            )
        written = turns(view.take(name), name)
        if isinstance(written, str):
            return written
        said = [message["content"] or "" for message in written if message["role"] == "assistant"]
        if not said:
            raise InputError("no assistant message: nothing the policy wrote", name)
        return said[-1]

    def _gold(self, view: RowView, data: Mapping[str, Any]) -> tuple[str, str | None]:
        """(the gold answer, why it cannot be read): one of them is empty."""
        name = next((name for name in self._answers if view.has(name)), None)
        if name is None and any(name in data for name in self._answers):
            return "", "it is empty"
        if name is None:
            raise InputError(
                f"no gold answer: expected a column {' or '.join(self._answers)}; the row has "
                f"{view.names()} (another name: --columns answer=…)"
            )
        try:
            return gold_answer(view.take(name)), None
        except InputError as error:
            return "", error.what

    def _cells(self, data: Mapping[str, Any], view: RowView, text_cells: bool) -> dict[str, Any]:
        """The columns as JSON has them; a CSV's numbers, flags and lists are text no more."""
        if text_cells:
            cells = RowView(data, ImportRules(), text_cells)
            renamed = {theirs: view.take(ours) for ours, theirs in self._rules.columns.items()}
            data = {name: cells.take(name) for name in data} | renamed
        plain = RowView(data, ImportRules(), text_cells=False).rest()
        return {name: plain.get(name) for name in data}


def _is_truncated(view: RowView) -> bool:
    if view.has("truncated") and flag(view.take("truncated"), "truncated"):
        return True
    return any(cut_by_limit(view.take(name)) for name in _STOPS)


# ---- the work ----------------------------------------------------------------------------------------


class _Crew:
    """A grader and the threads that ask it. Leaving it does not wait for what nobody has begun."""

    def __init__(self, workers: int, seconds: float, style: AnswerStyle) -> None:
        self._grader = Grader(workers, seconds)
        self._pool = ThreadPoolExecutor(workers)
        self._style = style

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._grader.close()

    def grades(self, questions: Sequence[Question]) -> Iterator[Grade | None]:
        """The grade of each question, in order; None of the truncated."""
        begun = [None if q.truncated else self._pool.submit(self._grade, q) for q in questions]
        yield from (None if future is None else future.result() for future in begun)

    def _grade(self, question: Question) -> Grade:
        if question.unread is not None:
            return Grade(Verdict.UNDECIDED, None, f"{UNREAD_GOLD}: {question.unread}", strict=False)
        return self._grader.grade(question.response, question.gold, self._style)


class _Tally:
    """Counts what is written, from the rows themselves, those of an earlier run included."""

    def __init__(self, writer: RowWriter) -> None:
        self._writer = writer
        self._resumed = writer.done
        self._counts: Counter[str] = Counter()
        self._first: dict[str, Any] | None = None
        for row in writer.kept():
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """One graded row more."""
        self._first = self._first or row
        self._counts[row["verdict"] or TRUNCATED] += 1
        self._counts["strict"] += row["verdict"] == Verdict.RIGHT and row["strict"]
        self._counts["unread"] += row["verdict"] == Verdict.UNDECIDED and row["grade_reason"].startswith(UNREAD_GOLD)

    def check_not_empty(self) -> None:
        """Raises where there is no row to write; then nothing stays."""
        if self._first is None:
            bad = self._writer.bad
            self._writer.discard()
            raise InputError(
                f"nothing to grade: {bad} rows, all of them bad; the first: {self._first_error()}"
                if bad
                else "nothing to grade: the file has no rows"
            )

    def report(self, reader: RowReader) -> GradeReport:
        """What was counted."""
        counts, writer = self._counts, self._writer
        return GradeReport(
            out=writer.out,
            rows=writer.done,
            right=counts[Verdict.RIGHT],
            strict=counts["strict"],
            wrong=counts[Verdict.WRONG],
            undecided=counts[Verdict.UNDECIDED],
            unread=counts["unread"],
            truncated=counts[TRUNCATED],
            bad=writer.bad,
            resumed=self._resumed,
            quarantine=writer.quarantine if writer.bad else None,
            first_error=self._first_error(),
            import_columns=None if self._first is None else _import_columns(self._first, reader),
        )

    def _first_error(self) -> str | None:
        first = self._writer.first_bad
        return None if first is None else f"{first['where']}: {first['error']}"


def _import_columns(row: Mapping[str, Any], reader: RowReader) -> tuple[str, ...] | None:
    """The `--columns` with which `stepcredit import` reads a graded row; None where it cannot."""
    response = reader.response_column(row)
    prompt = next((name for name in _PROMPTS if isinstance(row.get(name), str | list) and row[name]), None)
    if prompt is None or isinstance(row[prompt], str) != isinstance(row[response], str):
        return None
    is_found = response == "completion" or (response == "response" and row.get("completion") is None)
    names = {
        "prompt": prompt,
        "completion": "completion" if is_found else response,
        **{name: reader.columns.get(name, name) for name in ("truncated", *_STOPS)},
    }
    return tuple(f"{ours}={theirs}" for ours, theirs in names.items() if ours != theirs)


def _grade_chunks(
    rows: Iterator[Row], reader: RowReader, crew: _Crew, writer: RowWriter, tally: _Tally, *, skip_bad: bool
) -> None:
    """All rows that are not written yet, a chunk at a time."""
    numbered = enumerate(rows, 1)
    for _ in islice(numbered, writer.done):
        pass
    while chunk := list(islice(numbered, ROWS_PER_CHUNK)):
        questions, bad = _questions(chunk, reader, skip_bad=skip_bad)
        graded = [q.graded(grade) for q, grade in zip(questions, crew.grades(questions), strict=True)]
        writer.write(graded, bad)
        for row in graded:
            tally.add(row)


def _questions(
    chunk: Sequence[tuple[int, Row]], reader: RowReader, *, skip_bad: bool
) -> tuple[list[Question], list[dict[str, Any]]]:
    """(what the good rows ask, the bad rows for quarantine)."""
    questions: list[Question] = []
    bad: list[dict[str, Any]] = []
    for number, row in chunk:
        reader.refuse_ours(row)
        try:
            questions.append(reader.question(row))
        except InputError as error:
            if not skip_bad:
                raise
            raw = row.raw if row.data is None else json.dumps(row.data, ensure_ascii=False, default=str)
            bad.append({"number": number, "where": row.where, "error": error.what, "row": raw})
    return questions, bad


def _progress(rows: Iterator[Row], file: str) -> Generator[Row]:
    """The rows, with the progress of grading them."""
    with Meter(f"grading {Path(file).name}", None, "rows") as meter:
        for row in rows:
            yield row
            meter.advance(share=row.progress)
