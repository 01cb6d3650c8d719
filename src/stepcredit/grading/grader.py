"""The grader: a response and a gold answer in, a verdict out. It always comes back, and never guesses."""

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
"""Processor time of one answer's algebra, all its parts together."""
_AHEAD = 256
_TOO_LONG = f"{UNREAD_GOLD}: it is longer than {spelling.MAX_CHARS} characters"


class Grader:
    """Grades responses against gold answers. Use it from any thread; close it, or let the process end.

    Args:
        workers: processes for the algebra; they start when the first answer needs them.
        seconds: processor time that one answer may take.
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
        """End the workers."""
        self._workers.close()

    def grade(self, response: str, answer: str, style: AnswerStyle = MATH) -> Grade:
        """The verdict on a response.

        Args:
            response: what the policy wrote.
            answer: the gold answer alone.
            style: how the answer is to be found.
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
        """The verdict on an answer that was found already."""
        if len(gold) > spelling.MAX_CHARS:
            return Comparison(UNDECIDED, _TOO_LONG)
        if len(answer) > spelling.MAX_CHARS:
            return Comparison(UNDECIDED, f"longer than {spelling.MAX_CHARS} characters")
        return compare(gold, answer, _Algebra(self._workers, self._seconds), identity=self._identity)

    def grade_all(self, rows: Iterable[tuple[str, str]], style: AnswerStyle = MATH) -> Iterator[Grade]:
        """The verdicts on (response, gold answer) pairs, in their order, a few hundred read ahead.

        Leaving early does not wait for pairs that nobody has begun to grade.
        """
        source, pool = iter(rows), ThreadPoolExecutor(self._count)
        try:
            while batch := list(islice(source, _AHEAD)):
                begun = [pool.submit(self.grade, response, answer, style) for response, answer in batch]
                yield from (future.result() for future in begun)
        finally:
            pool.shutdown(cancel_futures=True)


class _Algebra:
    """Algebra by the workers, within what is left of one answer's time."""

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
    """The grader of this process; a forked process gets one of its own."""
    with _lock:
        return _shared.setdefault(os.getpid(), Grader())


def grade_answer(response: str, answer: str, style: AnswerStyle) -> Grade:
    """The shared grader's verdict on a response; see `Grader.grade`."""
    return shared_grader().grade(response, answer, style)
