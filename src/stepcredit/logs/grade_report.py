"""Report of a grading run: counts of rows and a summary."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError
from stepcredit.grading.comparison import UNREAD_GOLD
from stepcredit.logs.graded_rows import TRUNCATED, RowReader
from stepcredit.logs.writers import RowWriter
from stepcredit.verdict import Verdict


@dataclass(frozen=True)
class GradeReport:
    """Result of a grading run.

    Attributes:
        out: the file of graded rows.
        rows: rows read: graded, truncated and bad.
        right: responses with a right answer.
        strict: right responses with the answer after the marker that the prompt asked for.
        wrong: responses with a wrong answer or none.
        undecided: responses that the grader could not decide.
        unread: undecided responses whose gold answer cannot be parsed.
        truncated: responses cut by a length limit; not graded.
        bad: quarantined rows.
        resumed: rows of an earlier, interrupted run.
        quarantine: the file of bad rows, if any.
        first_error: the error of the first bad row.
        import_columns: the `--columns` with which `stepcredit import` reads the file; None if it cannot.
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
        """Fraction of right responses; undecided and truncated responses count as not right."""
        return self.right / (self.rows - self.bad)

    @property
    def strict_accuracy(self) -> float:
        """Fraction of right responses with the answer after the marker that the prompt asked for."""
        return self.strict / (self.rows - self.bad)

    def summary(self) -> str:
        """A few lines with the counts, the output file and the next command."""
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
        if self.import_columns is not None:
            columns = ["--columns", *self.import_columns] if self.import_columns else []
            command = ["stepcredit", "import", str(self.out), "--output_dir", "episodes", *columns]
            lines += [f"Next: {shlex.join(command)}"]
        return "\n".join(lines)


class Tally:
    """Counts of graded rows, including those of an earlier run."""

    def __init__(self, writer: RowWriter) -> None:
        self._writer = writer
        self._resumed = writer.done
        self._counts: Counter[str] = Counter()
        self._first: dict[str, Any] | None = None
        for row in writer.kept():
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Counts one graded row."""
        self._first = self._first or row
        self._counts[row["verdict"] or TRUNCATED] += 1
        self._counts["strict"] += row["verdict"] == Verdict.RIGHT and row["strict"]
        self._counts["unread"] += row["verdict"] == Verdict.UNDECIDED and row["grade_reason"].startswith(UNREAD_GOLD)

    def report(self, reader: RowReader) -> GradeReport:
        """Builds the report.

        Raises:
            InputError: there are no graded rows; the partial files are then deleted.
        """
        counts, writer, bad = self._counts, self._writer, self._writer.first_bad
        first_error = None if bad is None else f"{bad['where']}: {bad['error']}"
        if self._first is None:
            writer.discard()
            raise InputError(
                f"nothing to grade: {writer.bad} rows, all of them bad; the first: {first_error}"
                if bad
                else "nothing to grade: the file has no rows"
            )
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
            quarantine=writer.quarantine if bad else None,
            first_error=first_error,
            import_columns=reader.import_columns(self._first),
        )
