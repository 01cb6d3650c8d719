"""Terminal tables of result rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from stepcredit.report.formatting import (
    MISSING,
    block_label,
    count,
    count_range,
    decimal,
    interval,
    printable,
    share,
    share_and_error,
)
from stepcredit.report.legend import Legend
from stepcredit.report.scores import Score, aggregate, aggregate_values, search_label
from stepcredit.results.schema import AccuracyRow, GroupRow, ValueRow


def spread_note(scores: Iterable[Score]) -> str:
    """Explains the number after ±, and what ± 0 leaves possible."""
    scores = list(scores)
    several = {score.seeds > 1 for score in scores}
    if scores and all(score.shared for score in scores):
        note = "mean over seeds ± its standard error, over seeds and problems"
    elif several == {True}:
        note = "mean over seeds ± its standard error"
    elif several == {False}:
        note = "± standard error over problems"
    else:
        note = "± standard error: over seeds where there are several, otherwise over problems"
    unanimous = [score.problems[0] for score in scores if score.seeds == 1 and score.accuracy in (0, 1)]
    if not unanimous:
        return note
    fewest = min(unanimous)
    return (
        f"{note}; ± 0.0 is no certainty: with {fewest} problems all right or all wrong, up to "
        f"{share(min(1.0, 3 / fewest))} points (95%)"
    )


def plain_table(words: Sequence[str], numbers: Sequence[str], lines: Iterable[Sequence[str]], title: str = "") -> Table:
    """Returns a table with columns of words and then of numbers; markup in cells is not interpreted."""
    table = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in words:
        table.add_column(name, min_width=6)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table


def results_table(rows: Iterable[AccuracyRow], legend: Legend | None = None) -> Table:
    """Returns the table of `results.json`: accuracy in percent, mean and standard error over seeds.

    Raises:
        InputError: two rows of one group have the same seed.
    """
    scores = aggregate(rows, legend)
    blocks = list(dict.fromkeys(block_label(score.task, score.split) for score in scores))
    task = len(blocks) > 1
    strict = any(score.strict is not None for score in scores)
    numbers = ["width", "problems", "seeds", "accuracy %", *(["strict %"] if strict else [])]
    lines = [
        [
            *([block_label(score.task, score.split)] if task else []),
            score.label,
            score.search_label,
            MISSING if score.width is None else str(score.width),
            count_range(score.problems),
            str(score.seeds),
            score.percent,
            *([share(score.strict)] if strict else []),
            count(score.tokens_generated),
            count(score.tokens_scored),
        ]
        for score in scores
    ]
    words = [*(["task"] if task else []), "method", "search"]
    title = "" if task else "".join(blocks)
    table = plain_table(words, [*numbers, "tokens/\nproblem", "scored/\nproblem"], lines, title)
    table.caption = spread_note(scores)
    return table


def not_right(rows: Sequence[AccuracyRow]) -> str:
    """Returns what counts as not right without being wrong, in words; "" if nothing does."""
    cut, undecided = (max((getattr(row, name) or 0 for row in rows), default=0) for name in ("truncated", "undecided"))
    said = [f"{cut} cut at the length limit (--max_new_tokens)"] if cut else []
    said += [f"{undecided} undecided"] if undecided else []
    most = " at most per row" if len(rows) > 1 else ""
    return f"Counted as not right{most}: {' and '.join(said)}." if said else ""


def value_table(rows: Iterable[ValueRow], legend: Legend | None = None) -> Table:
    """Returns the table of `value.json`: estimates with intervals and chance levels.

    Raises:
        InputError: two rows of one group have the same seed.
    """
    scores = aggregate_values(rows, legend)
    task = len({(score.task, score.split) for score in scores}) > 1
    lines = [
        [
            *([block_label(score.task, score.split)] if task else []),
            score.label,
            score.metric_label,
            score.at_label,
            decimal(score.estimate),
            interval(score.low, score.high),
            decimal(score.chance),
            count_range(score.n),
            str(score.seeds),
        ]
        for score in scores
    ]
    words = [*(["task"] if task else []), "method", "measure", "V read"]
    return plain_table(words, ["estimate", "interval", "chance", "n", "seeds"], lines, "Quality of the value model")


def samples_table(row: AccuracyRow) -> Table | None:
    """Returns the table of pass@k and maj@k of a row of `results.json`; None for one sample per problem."""
    if not row.at_k:
        return None
    voted = any(at.majority is not None for at in row.at_k)
    lines = [
        [
            str(at.k),
            share_and_error(at.pass_, at.pass_stderr),
            *([share_and_error(at.majority, at.majority_stderr)] if voted else []),
        ]
        for at in row.at_k
    ]
    return plain_table(["k"], ["pass@k %", *(["maj@k %"] if voted else [])], lines, "Several samples")


def group_tables(rows: Iterable[GroupRow]) -> list[Table]:
    """Returns one table per grouping of `groups.json`."""
    grouped: dict[str, list[GroupRow]] = {}
    for row in rows:
        grouped.setdefault(printable(row.by), []).append(row)
    return [_group_table(by, members) for by, members in grouped.items()]


def _group_table(by: str, rows: Sequence[GroupRow]) -> Table:
    strict = any(row.accuracy_strict != row.accuracy for row in rows)
    several = len({(row.search, row.width) for row in rows}) > 1
    lines = [
        [
            printable(str(row.group)),
            *([f"{search_label(row.search or '')}, {row.width}"] if several else []),
            count(row.n),
            share_and_error(row.accuracy, row.stderr),
            *([share_and_error(row.accuracy_strict, row.stderr_strict)] if strict else []),
        ]
        for row in rows
    ]
    numbers = ["problems", "accuracy %", *(["strict %"] if strict else [])]
    return plain_table([by, *(["search, width"] if several else [])], numbers, lines, f"By {by}")
