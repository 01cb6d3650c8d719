"""Matrices of pairwise comparisons, from the rows of `pairs.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stepcredit.report.formatting import p_value, points, printable
from stepcredit.report.legend import Legend
from stepcredit.report.scores import search_label
from stepcredit.results.schema import PairRow


def seen_from(pair: PairRow, method: str) -> PairRow:
    """Returns the pair with this method as method a."""
    if method == pair.method_a:
        return pair
    return replace(
        pair,
        method_a=pair.method_b,
        method_b=pair.method_a,
        difference=-pair.difference,
        low=-pair.high,
        high=-pair.low,
        only_a=pair.only_b,
        only_b=pair.only_a,
    )


def is_clear(pair: PairRow) -> bool:
    """Whether the interval excludes zero."""
    return pair.low > 0 or pair.high < 0


def pair_note(pair: PairRow) -> str:
    """Describes the interval and the test of a pair."""
    alone = f"right alone {pair.only_a} and {pair.only_b} times"
    return f"95% interval {points(pair.low)} to {points(pair.high)}; {alone}; p = {p_value(pair.p)}"


@dataclass(frozen=True)
class Matrix:
    """Pairwise comparisons on one split under one search: `cells[i][j]` is the pair (i, j), None on the diagonal."""

    title: str
    labels: list[str]
    cells: list[list[PairRow | None]]


def matrices(pairs: Sequence[PairRow], legend: Legend) -> list[Matrix]:
    """Returns one matrix per split and search, with methods in the order of the file; titled by the split too, where
    there are several."""
    result = []
    splits = {pair.split for pair in pairs}
    for split, search in dict.fromkeys((pair.split, pair.search) for pair in pairs):
        chosen = [pair for pair in pairs if (pair.split, pair.search) == (split, search)]
        both = [seen_from(pair, name) for pair in chosen for name in (pair.method_a, pair.method_b)]
        names = list(dict.fromkeys(pair.method_a for pair in both))
        by_names = {(pair.method_a, pair.method_b): pair for pair in both}
        cells = [[by_names.get((a, b)) for b in names] for a in names]
        title = f"{printable(str(split))}, {search_label(search)}" if len(splits) > 1 else search_label(search)
        result.append(Matrix(title, [legend.label(name) for name in names], cells))
    return result
