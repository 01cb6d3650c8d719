"""Every two methods on the same problems: rows of `pairs.json`, and the matrix they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stepcredit.report.scores import SEARCH_LABELS, method_label
from stepcredit.results.fields import number_of, printable, row_of, text_of


@dataclass(frozen=True)
class Pair:
    """How far the first method is ahead of the second, with its interval and McNemar's test."""

    task: str
    search: str
    methods: tuple[str, str]
    difference: float
    low: float
    high: float
    only: tuple[int, int]
    p: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def seen_from(self, method: str) -> Pair:
        """The same pair with this method first."""
        if method == self.methods[0]:
            return self
        a, b = self.methods
        turned = {"difference": -self.difference, "low": -self.high, "high": -self.low}
        return Pair(self.task, self.search, (b, a), **turned, only=(self.only[1], self.only[0]), p=self.p)


def points(pair: Pair) -> str:
    """The difference in points of accuracy: +3.2."""
    return signed_points(pair.difference)


def signed_points(share: float) -> str:
    """A share as points with its sign: −0.4."""
    return f"{100 * share:+.1f}".replace("-", "−")


def pair_note(pair: Pair) -> str:
    """Interval and test in words."""
    low, high = signed_points(pair.low), signed_points(pair.high)
    return f"95% interval {low} to {high}; right alone {pair.only[0]} and {pair.only[1]} times; p = {p_value(pair.p)}"


def p_value(p: float) -> str:
    """A p-value: three decimals, its size where it is below 0.001, a bound where it is too small for a float."""
    if p < 1e-300:
        return "< 1e-300"
    return f"{p:.0e}" if p < 0.001 else f"{p:.3f}"


def read_pairs(rows: Iterable[object], source: str = "pairs.json") -> list[Pair]:
    """The rows of `pairs.json`. Raises InputError where one is malformed."""
    return [_pair(row, f"{source}, row {k}") for k, row in enumerate(rows, 1)]


def _pair(payload: object, where: str) -> Pair:
    row = row_of(payload, where)
    return Pair(
        task=text_of(row, "task", where),
        search=text_of(row, "search", where),
        methods=(text_of(row, "method_a", where), text_of(row, "method_b", where)),
        difference=number_of(row, "difference", where, -1.0, 1.0),
        low=number_of(row, "low", where, -1.0, 1.0),
        high=number_of(row, "high", where, -1.0, 1.0),
        only=(int(number_of(row, "only_a", where, 0.0)), int(number_of(row, "only_b", where, 0.0))),
        p=number_of(row, "p", where, 0.0, 1.0),
    )


@dataclass(frozen=True)
class Matrix:
    """All methods against all under one search: `cells[i][j]` is the pair (i, j), None on the diagonal."""

    search: str
    labels: list[str]
    cells: list[list[Pair | None]]


def matrices(pairs: Sequence[Pair]) -> list[Matrix]:
    """One matrix a search, methods in the order of the file."""
    return [
        _matrix([p for p in pairs if p.search == search], search) for search in dict.fromkeys(p.search for p in pairs)
    ]


def _matrix(pairs: Sequence[Pair], search: str) -> Matrix:
    names = list(dict.fromkeys(name for pair in pairs for name in pair.methods))
    by_names = {pair.seen_from(name).methods: pair.seen_from(name) for pair in pairs for name in pair.methods}
    cells = [[by_names.get((a, b)) for b in names] for a in names]
    return Matrix(SEARCH_LABELS.get(search, printable(search)), [method_label(name) for name in names], cells)
