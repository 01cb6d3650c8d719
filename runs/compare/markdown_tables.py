"""Result rows as Markdown tables, for docs/results.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

from stepcredit.report.cost import LINES
from stepcredit.report.formatting import MISSING, count, p_value, points, share
from stepcredit.report.legend import Legend
from stepcredit.report.pairs import seen_from
from stepcredit.report.scores import SEARCH_LABELS, Score, aggregate
from stepcredit.results.schema import AccuracyRow, PairRow, SignalRow

NORMAL = NormalDist()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [_line(header), _line(["---", *("---:" for _ in header[1:])]), *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def score_table(rows: Sequence[AccuracyRow], legend: Legend) -> str:
    """Methods × searches: accuracy in percent, mean over seeds ± its standard error, each seed under the first search,
    and the budget."""
    scores = aggregate(rows, legend)
    searches = list(dict.fromkeys(score.search for score in scores))
    methods = list(dict.fromkeys(score.method for score in scores))
    found: dict[tuple[str, str], Score] = {(s.method, s.search): s for s in scores}
    header = ["method", *searches, f"each seed, {searches[0]}", "learning rate", "updates", "passes", "tokens trained"]
    return table(
        header,
        [
            [
                legend.label(method),
                *(found[method, s].percent if (method, s) in found else MISSING for s in searches),
                _each_seed([row for row in rows if (row.method, row.search) == (method, searches[0])]),
                *_budget([row for row in rows if row.method == method]),
            ]
            for method in methods
        ],
    )


def summary_table(columns: Mapping[str, Sequence[AccuracyRow]], legend: Legend) -> str:
    """Methods × what they were compared on: greedy accuracy in percent, mean over seeds ± its standard error."""
    found = {
        (score.method, name): score.percent
        for name, rows in columns.items()
        for score in aggregate([row for row in rows if (row.search, row.split) == ("greedy", "test")], legend)
    }
    methods = dict.fromkeys(method for method, _ in found)
    cells = ([legend.label(m), *(found.get((m, name), MISSING) for name in columns)] for m in methods)
    return table(["method", *columns], cells)


def split_table(rows: Sequence[AccuracyRow], splits: Sequence[str], searches: Sequence[str], legend: Legend) -> str:
    """Methods × splits × searches, one reply a turn: mean over seeds ± its standard error, and each seed under the
    first split and search."""
    plain = [row for row in rows if row.search in searches and row.width == 1]
    found = {(s.method, s.split, s.search): s for s in aggregate(plain)}
    columns = [(split, search) for split in splits for search in searches]
    header = ["method", *(f"{split}, {search}" for split, search in columns), f"each seed, {', '.join(columns[0])}"]
    return table(
        header,
        [
            [
                legend.label(method),
                *(found[method, *c].percent if (method, *c) in found else MISSING for c in columns),
                _each_seed([row for row in plain if (row.method, row.split, row.search) == (method, *columns[0])]),
            ]
            for method in dict.fromkeys(method for method, _, _ in found)
        ],
    )


def _each_seed(rows: Sequence[AccuracyRow]) -> str:
    return " ".join(share(row.accuracy) for row in sorted(rows, key=lambda row: row.seed or 0)) or MISSING


def _budget(rows: Sequence[AccuracyRow]) -> list[str]:
    def mean(column: str) -> float | None:
        known = [x for row in rows if (x := getattr(row, column)) is not None]
        return sum(known) / len(known) if known else None

    rate, steps, epochs, tokens = (mean(k) for k in ("learning_rate", "steps", "epochs", "tokens_trained"))
    return [
        MISSING if rate is None else f"{rate:g}",
        MISSING if steps is None else f"{steps:.0f}",
        MISSING if epochs is None else f"{epochs:.1f}",
        count(tokens),
    ]


def grid_table(rows: Sequence[AccuracyRow], legend: Legend) -> str:
    """The rates that were tried: accuracy in percent on the validation split, one number a search; chosen in bold."""
    rates = sorted({row.learning_rate for row in rows if row.learning_rate is not None})
    searches = list(dict.fromkeys(row.search for row in rows))
    cells: dict[tuple[object, object], list[AccuracyRow]] = {}
    for row in rows:
        cells.setdefault((row.method, row.learning_rate), []).append(row)
    return table(
        [f"method ({' / '.join(searches)})", *(f"{rate:g}" for rate in rates)],
        [
            [legend.label(m), *(_tried(cells.get((m, rate), [])) for rate in rates)]
            for m in dict.fromkeys(row.method for row in rows)
        ],
    )


def _tried(rows: Sequence[AccuracyRow]) -> str:
    if not rows:
        return MISSING
    accuracies = " / ".join(share(row.accuracy) for row in rows)
    return f"**{accuracies}**" if rows[0].chosen else accuracies


def pair_table(
    pairs: Sequence[PairRow], method: str, search: str, legend: Legend, with_detectable: bool = False
) -> str:
    """One method against every other under one search, in points, with interval and McNemar's p."""
    header = [f"{legend.label(method)} against", "difference", "95% interval", "only it right", "only the other", "p"]
    lines = []
    for pair in (seen_from(p, method) for p in pairs if p.search == search and method in (p.method_a, p.method_b)):
        line = [legend.label(pair.method_b), points(pair.difference), f"{points(pair.low)} to {points(pair.high)}"]
        line += [str(pair.only_a), str(pair.only_b), p_value(pair.p)]
        lines.append([*line, *([f"{100 * detectable(pair):.1f}"] if with_detectable else [])])
    return table([*header, *(["detectable"] if with_detectable else [])], lines)


def detectable(pair: PairRow) -> float:
    """The smallest true difference whose 95% interval would exclude 0 in four of five comparisons of this size: 2.80
    standard errors, taken from the interval's width."""
    return (NORMAL.inv_cdf(0.975) + NORMAL.inv_cdf(0.8)) * (pair.high - pair.low) / (2 * NORMAL.inv_cdf(0.975))


def calibration_table(rows: Sequence[SignalRow], signal: str, against: str) -> str:
    """Success rates of fresh continuations by what V predicted, over all seeds."""
    bins: dict[tuple[float, float], list[SignalRow]] = {}
    for row in rows:
        if (row.metric, row.signal, row.against) == ("calibration", signal, against):
            bins.setdefault((row.at or 0.0, row.to or 0.0), []).append(row)
    lines = []
    for (low, high), members in sorted(bins.items()):
        states = sum(row.n for row in members)
        predicted = sum((row.predicted or 0.0) * row.n for row in members) / states
        success = sum(row.estimate * row.n for row in members) / states
        lines.append([f"{low:.1f} to {high:.1f}", f"{predicted:.2f}", f"{success:.2f}", f"{states:,}"])
    return table(["V", "mean V", "success rate", "states"], lines)


def cost_table(scores: Sequence[Score], method: str) -> str:
    """Searches side by side in the order of the tokens they generate: a row for each number of tokens."""
    columns = ["greedy", *LINES]
    mine = [score for score in scores if score.method == method and score.search in columns]
    rows: dict[int, dict[str, Score]] = {}
    for score in sorted(mine, key=lambda s: s.tokens_generated or 0.0):
        rows.setdefault(round(score.tokens_generated or 0.0), {})[score.search] = score
    return table(
        ["tokens generated", "scored", *(SEARCH_LABELS[c] for c in columns)],
        [
            [
                f"{tokens:,}",
                f"{max(round(s.tokens_scored or 0.0) for s in found.values()):,}",
                *(_cell(found.get(column)) for column in columns),
            ]
            for tokens, found in rows.items()
        ],
    )


def _cell(score: Score | None) -> str:
    if score is None:
        return MISSING
    return score.percent + (f" (B={score.width})" if score.search == "beam" else "")
