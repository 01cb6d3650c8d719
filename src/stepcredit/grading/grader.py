"""Grader of responses against gold answers. It always terminates and never guesses."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Self

from stepcredit.grading.comparison import RIGHT, UNDECIDED, UNREAD_GOLD, WRONG, Comparison, compare
from stepcredit.grading.extraction.response import extract
from stepcredit.grading.golds import style_for
from stepcredit.grading.grade import Grade
from stepcredit.grading.notation import spelling
from stepcredit.grading.style import MATH, AnswerStyle
from stepcredit.grading.workers import Workers
from stepcredit.verdict import Verdict

SECONDS = 0.8
"""CPU seconds for the algebra of one answer, all parts included."""
_AHEAD = 256
_TOO_LONG = f"{UNREAD_GOLD}: it is longer than {spelling.MAX_CHARS} characters"


class Grader:
    """Thread-safe grader of responses against gold answers.

    Args:
        workers: processes for the algebra, started on first use.
        seconds: CPU seconds per answer.
        identity: see `stepcredit.grading.comparison.compare`.
    """

    def __init__(self, workers: int = 1, seconds: float = SECONDS, *, identity: bool = True) -> None:
        self._workers = Workers(workers)
        self._count = workers
        self._seconds = seconds
        self._identity = identity

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Terminates the workers."""
        self._workers.close()

    def grade(self, response: str, answer: str, style: AnswerStyle = MATH) -> Grade:
        """Grades a response.

        Args:
            response: the response of the policy.
            answer: the gold answer.
            style: the answer format.
        """
        if len(answer) > spelling.MAX_CHARS:
            return Grade(UNDECIDED, None, _TOO_LONG, strict=False)
        style = style_for(answer, style)
        found = extract(response, style)
        if found is None:
            return Grade(Verdict.WRONG, None, "no answer was found", strict=False)
        verdict, reason = self.compare(answer, found.text)
        return Grade(verdict, found.text, reason, strict=style.is_strict(found.marker))

    def compare(self, gold: str, answer: str) -> Comparison:
        """Compares an extracted answer with the gold answer."""
        if len(gold) > spelling.MAX_CHARS:
            return Comparison(UNDECIDED, _TOO_LONG)
        if len(answer) > spelling.MAX_CHARS:
            return Comparison(UNDECIDED, f"longer than {spelling.MAX_CHARS} characters")
        return compare(gold, answer, _Algebra(self._workers, self._seconds), identity=self._identity)

    def grade_all(self, rows: Iterable[tuple[str, str]], style: AnswerStyle = MATH) -> Iterator[Grade]:
        """Grades (response, gold answer) pairs in order, in batches of a few hundred.

        If the iterator is closed early, pending pairs are cancelled.
        """
        source, pool = iter(rows), ThreadPoolExecutor(self._count)
        try:
            while batch := list(islice(source, _AHEAD)):
                begun = [pool.submit(self.grade, response, answer, style) for response, answer in batch]
                yield from (future.result() for future in begun)
        finally:
            pool.shutdown(cancel_futures=True)


class _Algebra:
    """Algebra in worker processes, within the remaining time of one answer."""

    def __init__(self, workers: Workers, seconds: float) -> None:
        self._workers = workers
        self._left = seconds

    def __call__(self, gold: str, answer: str) -> Comparison:
        if self._left <= 0.01:
            return Comparison(UNDECIDED, "took too long")
        reply = self._workers.compare(gold, answer, self._left)
        self._left -= reply.spent
        if reply.equal is None:
            return Comparison(UNDECIDED, reply.reason or UNREAD_GOLD)
        return Comparison(RIGHT if reply.equal else WRONG, "equal by algebra" if reply.equal else "not equal")


_shared: dict[int, Grader] = {}
_lock = threading.Lock()


def shared_grader() -> Grader:
    """The grader of this process; a forked process gets a new one."""
    with _lock:
        return _shared.setdefault(os.getpid(), Grader())


def grade_answer(response: str, answer: str, style: AnswerStyle) -> Grade:
    """Grades a response with the shared grader; see `Grader.grade`."""
    return shared_grader().grade(response, answer, style)
