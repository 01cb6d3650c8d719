"""Result rows as tables for the terminal, and how their numbers are written."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from stepcredit.report.scores import Score, ValueScore, aggregate, aggregate_values, method_label
from stepcredit.results.fields import printable

MISSING = "–"


def percent(score: Score) -> str:
    """Accuracy and its standard error in percent: 93.1 ± 0.6."""
    return f"{100 * score.accuracy:.1f} ± {100 * score.spread:.1f}"


def share(value: float | None) -> str:
    """A share in percent with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f}"


def decimal(value: float | None) -> str:
    """A number with two decimals and a true minus sign."""
    return MISSING if value is None else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def interval(score: ValueScore) -> str:
    """The interval as low to high."""
    if score.low is None or score.high is None:
        return MISSING
    return f"{decimal(score.low)} to {decimal(score.high)}"


def count_range(counts: tuple[int, int] | None) -> str:
    """One number, or the smallest and the largest: 900–1,000."""
    if counts is None:
        return MISSING
    low, high = counts
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def tokens(value: float | None) -> str:
    """Tokens per problem, whole."""
    return MISSING if value is None else f"{value:,.0f}"


def block_label(task: str, split: str) -> str:
    """The task and its split: arithmetic (test)."""
    return printable(f"{task} ({split})" if split else task)


def spread_note(scores: Iterable[Score]) -> str:
    """What the number after ± is."""
    several = {score.seeds > 1 for score in scores}
    if several == {True}:
        return "mean over seeds ± its standard error"
    if several == {False}:
        return "± standard error over problems"
    return "± standard error: over seeds where there are several, otherwise over problems"


def results_table(rows: Iterable[object]) -> Table:
    """The rows of `results.json` as a table: accuracy in percent, mean and spread over seeds.

    Raises:
        InputError: a row is malformed, or two rows of one group have the same seed.
    """
    scores = aggregate(rows)
    blocks = list(dict.fromkeys(block_label(score.task, score.split) for score in scores))
    several = len(blocks) > 1
    title = None if several else Text("".join(blocks))
    table = Table(title=title, caption=spread_note(scores), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    if several:
        table.add_column("task")
    for column in ("method", "search"):
        table.add_column(column, min_width=9)
    has_strict = any(score.strict is not None for score in scores)
    strict = ["strict %"] if has_strict else []
    for column in ("width", "problems", "seeds", "accuracy %", *strict, "tokens/\nproblem", "scored/\nproblem"):
        table.add_column(column, justify="right", no_wrap=True)
    for score in scores:
        cells = [
            score.label,
            score.search_label,
            MISSING if score.width is None else str(score.width),
            count_range(score.problems),
            str(score.seeds),
            percent(score),
            *([share(score.strict)] if has_strict else []),
            tokens(score.tokens_generated),
            tokens(score.tokens_scored),
        ]
        block = [block_label(score.task, score.split)] if several else []
        table.add_row(*(Text(cell) for cell in [*block, *cells]))
    return table


def value_table(rows: Iterable[object]) -> Table:
    """The rows of `value.json` as a table: estimates with their intervals and chance levels.

    Raises:
        InputError: a row is malformed, or two rows of one group have the same seed.
    """
    scores = aggregate_values(rows)
    several = len({(score.task, score.split) for score in scores}) > 1
    table = Table(title="What the value function knows", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    if several:
        table.add_column("task")
    for column in ("method", "measure", "V read"):
        table.add_column(column, min_width=13 if column == "measure" else 6)
    for column in ("estimate", "interval", "chance", "n", "seeds"):
        table.add_column(column, justify="right", no_wrap=True)
    for score in scores:
        cells = [
            method_label(score.method),
            score.metric_label,
            score.at_label,
            decimal(score.estimate),
            interval(score),
            decimal(score.chance),
            count_range(score.n),
            str(score.seeds),
        ]
        block = [block_label(score.task, score.split)] if several else []
        table.add_row(*(Text(cell) for cell in [*block, *cells]))
    return table
