"""Progress on standard error: a bar on a terminal, otherwise a line from time to time.

collecting gsm8k: 192 of 512 responses (38%), 1 min, 3.2/s, 1 min 40 s left, 410 response tokens/s
oreo: 120 of 1,000 steps (12%), 4 min, 2 s each, 29 min left, loss 0.0312, 5,210 response tokens/s
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

FIRST_LINE = 5.0
"""Seconds until the first line; shorter work prints nothing."""
NEXT_LINE, LONGEST_INTERVAL = 30.0, 300.0
"""Minimum and maximum seconds between lines."""
_SHARE_OF_TIME = 20  # between these a line whenever a twentieth of the time has passed: some 330 lines a day
_BAR_INTERVAL = 0.1

_is_worker = False


def hide() -> None:
    """Disables all progress in this process, that of transformers included; for workers, whose parent shows it."""
    global _is_worker
    _is_worker = True
    from transformers.utils import logging  # here, because commands that need no model show progress too

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    return Console(stderr=True).is_terminal


def track(items: Iterable[Item], label: str, total: int, unit: str = "") -> Iterator[Item]:
    """Yields `items` and shows progress.

    Args:
        items: the items.
        label: label of the progress.
        total: number of items.
        unit: name of the items, in the plural.
    """
    with Meter(label, total, unit) as meter:
        for item in items:
            yield item
            meter.advance()


class Advance(Protocol):
    """Progress callback."""

    def __call__(self, more: int, *, tokens: int = 0) -> object:
        """Reports that `more` further items are done, with so many response tokens."""
        ...


def unseen(more: int, *, tokens: int = 0) -> None:
    """An `Advance` that does nothing."""


def track_units(
    units: Sequence[Sequence[Item]], label: str, samples: int = 1, unit: str = "responses"
) -> Iterator[tuple[Sequence[Item], Advance]]:
    """Yields work units, each with a progress callback.

    Args:
        units: problems of each unit.
        label: label of the progress.
        samples: counted items per problem.
        unit: name of the counted items, in the plural.
    """
    with Meter(label, samples * sum(map(len, units)), unit) as meter:
        for one in units:
            yield one, meter.advance


class Face(Protocol):
    """Display of a meter."""

    def show(self, meter: Meter) -> float:
        """Updates the display; returns the seconds until the next update."""
        ...

    def close(self, meter: Meter, *, done: bool) -> None:
        """Ends the display."""
        ...


class Meter:
    """Progress meter, as a context manager.

    Args:
        label: label of the progress.
        total: number of items; None if unknown, in which case `share` is the progress.
        unit: name of the items, in the plural.
        done: number of items done before.
        shown: whether to show progress.

    Attributes:
        count: number of items done.
        tokens: number of response tokens generated for them.
        share: share of the work done, 0 to 1.
        note: text to append.
    """

    def __init__(self, label: str, total: int | None, unit: str = "", *, done: int = 0, shown: bool = True) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.count = self.before = done
        self.share = self._share_before = done / total if total else 0.0
        self.tokens = 0
        self.note = ""
        self._shown = shown and not _is_worker
        self._face: Face | None = None

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        if self._shown:
            self._face = _Bar(self) if on_terminal() else _Lines()
            self._due = self._start + self._face.show(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._face is not None:
            self._face.close(self, done=error is None)

    def advance(self, more: int = 1, share: float | None = None, *, tokens: int = 0) -> None:
        """Adds `more` items with so many response tokens; `share` is the total progress if there is no total."""
        self.count += more
        self.tokens += tokens
        if share is not None:
            self.share = share
        elif self.total:
            self.share = self.count / self.total
        if self._face is not None and (now := time.monotonic()) >= self._due:
            self._due = now + self._face.show(self)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds left; None if unknown."""
        gone = self.share - self._share_before
        return self.seconds * (1 - self.share) / gone if gone > 0 else None

    def counted(self) -> str:
        """Returns the count and the total, with the unit."""
        of = "" if self.total is None else f" of {self.total:,}"
        return f"{self.count:,}{of} {self.unit}".rstrip()

    def remarks(self) -> list[str]:
        """Returns the rate of response tokens, if there are any, and the note."""
        rate = [f"{self.tokens / self.seconds:,.0f} response tokens/s"] if self.tokens and self.seconds > 0 else []
        return [*rate, self.note] if self.note else rate

    def line(self) -> str:
        """Returns the progress as one line."""
        parts = [f"{self.label}: {self.counted()} ({self.share:.0%})", duration(self.seconds)]
        made = self.count - self.before
        if made > 0 and self.seconds > 0:
            parts.append(_pace(made / self.seconds))
        if self.share < 1 and (left := self.seconds_left) is not None:
            parts.append(f"{duration(left)} left")
        return ", ".join([*parts, *self.remarks()])


class _Lines:
    """Display in lines: after a few seconds, then at intervals of half a minute to five minutes, and at the end."""

    def __init__(self) -> None:
        self._begun = False
        self._said: tuple[int, str] | None = None

    def show(self, meter: Meter) -> float:
        if not self._begun:
            self._begun = True
            return FIRST_LINE
        self._say(meter)
        return min(LONGEST_INTERVAL, max(NEXT_LINE, meter.seconds / _SHARE_OF_TIME))

    def close(self, meter: Meter, *, done: bool) -> None:
        if done and (self._said or meter.seconds >= FIRST_LINE):
            self._say(meter)

    def _say(self, meter: Meter) -> None:
        news = (meter.count, meter.note)
        if news != self._said:
            self._said = news
            sys.stderr.write(f"{meter.line()}\n")
            sys.stderr.flush()


class _Bar:
    """Display as a bar, removed at the end."""

    def __init__(self, meter: Meter) -> None:
        columns = [TextColumn(f"{{task.{name}}}") for name in ("description", "fields[counted]", "fields[note]")]
        self._bar = Progress(
            columns[0], BarColumn(), columns[1], TimeRemainingColumn(), columns[2],
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task(meter.label, total=1.0, counted="", note="")
        self.show(meter)
        self._bar.start()

    def show(self, meter: Meter) -> float:
        note = ", ".join(meter.remarks())
        self._bar.update(self._task, description=meter.label, completed=meter.share, counted=meter.counted(), note=note)
        return _BAR_INTERVAL

    def close(self, meter: Meter, *, done: bool) -> None:
        self._bar.stop()


def duration(seconds: float) -> str:
    """Formats seconds: 8 s, 1 min 40 s, 29 min, 3 h 5 min, 2 d 4 h."""
    whole = round(seconds)
    if whole < 600:
        minutes, rest = divmod(whole, 60)
        return " ".join([*([f"{minutes} min"] if minutes else []), *([f"{rest} s"] if rest or not minutes else [])])
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number and not (unit == "min" and days))


def _pace(rate: float) -> str:
    """Formats a rate as items per second, or as time per item if slow."""
    if rate >= 1:
        return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
    return f"{duration(1 / rate)} each"
