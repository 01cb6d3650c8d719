"""Result files as Markdown tables, for pages that are kept beside the code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from stepcredit.report.pairs import Pair, p_value, points, signed_points
from stepcredit.report.scores import Score, aggregate, method_label
from stepcredit.report.step_credit import LOCALISATION, Signals, foresight, localisation
from stepcredit.report.tables import MISSING, percent
from stepcredit.results.fields import Row, number_of, optional_number, text_of


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [_line(header), _line(["---", *("---:" for _ in header[1:])]), *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def score_table(rows: Sequence[Row]) -> str:
    """Methods × searches: accuracy in percent, mean over seeds ± its standard error, each seed under the first search,
    and the budget."""
    scores = aggregate(rows)
    searches = list(dict.fromkeys(score.search for score in scores))
    methods = list(dict.fromkeys(score.method for score in scores))
    found: dict[tuple[str, str], Score] = {(s.method, s.search): s for s in scores}
    header = ["method", *searches, f"each seed, {searches[0]}", "learning rate", "updates", "passes", "tokens trained"]
    return table(
        header,
        [
            [
                method_label(method),
                *(percent(found[method, s]) if (method, s) in found else MISSING for s in searches),
                _each_seed([row for row in rows if (row["method"], row["search"]) == (method, searches[0])]),
                *_budget([row for row in rows if row["method"] == method]),
            ]
            for method in methods
        ],
    )


def split_table(rows: Sequence[Row], splits: Sequence[str], searches: Sequence[str]) -> str:
    """Methods × splits × searches, one reply a turn: mean over seeds ± its standard error, and each seed under the
    first split and search."""
    plain = [row for row in rows if row["search"] in searches and row["width"] == 1]
    found = {(s.method, s.split, s.search): s for s in aggregate(plain)}
    columns = [(split, search) for split in splits for search in searches]
    header = ["method", *(f"{split}, {search}" for split, search in columns), f"each seed, {', '.join(columns[0])}"]
    return table(
        header,
        [
            [
                method_label(method),
                *(percent(found[method, *c]) if (method, *c) in found else MISSING for c in columns),
                _each_seed(
                    [row for row in plain if (row["method"], row["split"], row["search"]) == (method, *columns[0])]
                ),
            ]
            for method in dict.fromkeys(method for method, _, _ in found)
        ],
    )


def _each_seed(rows: Sequence[Row]) -> str:
    accuracies = {number_of(row, "seed", "results.json"): number_of(row, "accuracy", "results.json") for row in rows}
    return " ".join(f"{100 * accuracy:.1f}" for _, accuracy in sorted(accuracies.items())) or MISSING


def _budget(rows: Sequence[Row]) -> list[str]:
    def mean(key: str) -> float | None:
        numbers = [optional_number(row, key, "results.json") for row in rows]
        known = [x for x in numbers if x is not None]
        return sum(known) / len(known) if known else None

    rate, steps, epochs, tokens = (mean(k) for k in ("learning_rate", "steps", "epochs", "tokens_trained"))
    return [
        MISSING if rate is None else f"{rate:g}",
        MISSING if steps is None else f"{steps:.0f}",
        MISSING if epochs is None else f"{epochs:.1f}",
        MISSING if tokens is None else f"{tokens:,.0f}",
    ]


def grid_table(rows: Sequence[Row]) -> str:
    """The rates that were tried: accuracy in percent on the validation split, one number a search; chosen in bold."""
    rates = sorted({number_of(row, "learning_rate", "grid.json") for row in rows})
    methods = list(dict.fromkeys(text_of(row, "method", "grid.json") for row in rows))
    searches = list(dict.fromkeys(text_of(row, "search", "grid.json") for row in rows))
    cells: dict[tuple[object, object], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["learning_rate"]), []).append(row)
    return table(
        [f"method ({' / '.join(searches)})", *(f"{rate:g}" for rate in rates)],
        [[method_label(m), *(_tried(cells.get((m, rate), [])) for rate in rates)] for m in methods],
    )


def _tried(rows: Sequence[Row]) -> str:
    if not rows:
        return MISSING
    accuracies = " / ".join(f"{100 * number_of(row, 'accuracy', 'grid.json'):.1f}" for row in rows)
    return f"**{accuracies}**" if rows[0].get("chosen") else accuracies


def pair_table(pairs: Sequence[Pair], method: str, search: str) -> str:
    """One method against every other under one search, in points, with interval and McNemar's p."""
    chosen = [pair.seen_from(method) for pair in pairs if pair.search == search and method in pair.methods]
    return table(
        [f"{method_label(method)} against", "difference", "95% interval", "only it right", "only the other", "p"],
        [
            [
                method_label(pair.methods[1]),
                points(pair),
                f"{signed_points(pair.low)} to {signed_points(pair.high)}",
                str(pair.only[0]),
                str(pair.only[1]),
                p_value(pair.p),
            ]
            for pair in chosen
        ],
    )


def localisation_table(rows: Sequence[Row]) -> str:
    """Which signal finds wrong steps: mean over seeds ± its standard error, in percent."""
    return _written(localisation(rows))


def auc_table(rows: Sequence[Row]) -> str:
    """AUC of V for final success, within a problem and across, by how much of the response is written."""
    return _written(foresight(rows))


def _written(found: Signals | None) -> str:
    return "" if found is None else table(found.header, [[line.name, *line.cells] for line in found.lines])


def calibration_table(rows: Sequence[Row], signal: str, against: str) -> str:
    """Success rates of fresh continuations by what V predicted, over all seeds."""
    chosen = [
        row
        for row in rows
        if row.get("metric") == "calibration" and row.get("signal") == signal and row.get("against") == against
    ]
    bins: dict[tuple[float, float], list[Row]] = {}
    for row in chosen:
        edges = (number_of(row, "at", LOCALISATION), number_of(row, "to", LOCALISATION))
        bins.setdefault(edges, []).append(row)
    lines = []
    for (low, high), members in sorted(bins.items()):
        counts = [number_of(row, "n", LOCALISATION) for row in members]
        weigh = partial(_weighted, members, counts)
        means = [f"{weigh(key):.2f}" for key in ("predicted", "estimate")]
        lines.append([f"{low:.1f} to {high:.1f}", *means, f"{sum(counts):,.0f}"])
    return table(["V", "mean V", "success rate", "states"], lines)


def _weighted(rows: Sequence[Row], counts: Sequence[float], key: str) -> float:
    total = sum(number_of(row, key, LOCALISATION) * n for row, n in zip(rows, counts, strict=True))
    return total / sum(counts)
