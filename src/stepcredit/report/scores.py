"""Aggregation of result rows over seeds: accuracies and value quality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from stepcredit.errors import InputError
from stepcredit.report.formatting import printable, share_and_error
from stepcredit.report.legend import Legend
from stepcredit.results.schema import BY_SEED, AccuracyRow, Row, ValueRow

SEARCH_LABELS = {
    "greedy": "greedy",
    "sample": "sampling",
    "vote": "majority vote",
    "weighted-vote": "vote weighed by V",
    "best-of": "best of K",
    "beam": "step beam",
    "random": "any of K",
}
METRIC_LABELS = {
    "auc_within_prompt": "Right ranked above wrong, within a problem",
    "auc": "Right ranked above wrong, over all problems",
    "first_wrong_step": "First wrong step found",
}
AT_LABELS = {None: "", 0.0: "at the start", 0.5: "halfway", 1.0: "at the end"}

RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True)
class Score:
    """Accuracy of one method under one search, over all seeds.

    `label` is the label of the method; `settings` distinguishes scores with the same names. `spread` is the standard
    error of the mean over seeds, or over problems if there is one seed; where the seeds share their problems it is over
    both (`shared`). `problems` is the smallest and largest number
    of problems of a seed. Tokens are per problem; `truncated` and `undecided` are shares of the problems. `strict` is
    the accuracy that counts only answers behind the requested marker. None: not recorded.
    """

    task: str
    split: str
    method: str
    label: str
    search: str
    width: int | None
    round: int | None
    settings: str
    problems: tuple[int, int]
    seeds: int
    accuracy: float
    spread: float
    shared: bool
    tokens_generated: float | None
    tokens_scored: float | None
    truncated: float | None
    undecided: float | None
    strict: float | None

    @property
    def search_label(self) -> str:
        """Label of the search, with distinguishing settings."""
        return search_label(self.search) + self.settings

    @property
    def percent(self) -> str:
        """Accuracy and standard error in percent: 93.1 ± 0.6."""
        return share_and_error(self.accuracy, self.spread)


@dataclass(frozen=True)
class ValueScore:
    """One metric of a value model, over all seeds.

    `low` and `high` are the interval of a single seed, or cover the intervals of all seeds. `chance` is the chance
    level. None: not recorded.
    """

    task: str
    split: str
    label: str
    metric: str
    metric_label: str
    at_label: str
    estimate: float
    low: float | None
    high: float | None
    chance: float | None
    n: tuple[int, int] | None
    seeds: int
    note: str


def search_label(search: str) -> str:
    """Returns the label of a search."""
    return SEARCH_LABELS.get(search, printable(search))


def seeds_of(rows: Iterable[RowT], source: str) -> list[list[RowT]]:
    """Groups rows that differ only in their seed, in the order of the file.

    Raises:
        InputError: two rows of a group have the same seed.
    """
    groups: dict[str, dict[int | None, RowT]] = {}
    for k, row in enumerate(rows, start=1):
        seeds = groups.setdefault(row.key(without=BY_SEED), {})
        if row.seed in seeds:
            what = f"an earlier row has the same names and seed ({row.seed}): give every row a seed of its own"
            raise InputError(what, f"{source}, row {k}")
        seeds[row.seed] = row
    return [list(seeds.values()) for seeds in groups.values()]


def settings_apart(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Returns, per row, the settings that distinguish it from rows with the same names, in brackets; or ""."""
    same_names: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        same_names.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    labels = []
    for row in rows:
        others = [other.about() for other in same_names[tuple(getattr(row, name) for name in names)]]
        settings = {k: v for k, v in row.about().items() if k not in BY_SEED}
        apart = [f"{k} {v}" for k, v in settings.items() if any(other.get(k) != v for other in others)]
        labels.append(printable(f" ({', '.join(apart)})") if apart else "")
    return labels


def aggregate(rows: Iterable[AccuracyRow], legend: Legend | None = None, source: str = "results.json") -> list[Score]:
    """Aggregates the rows of each (task, split, method, search, width, round, settings) over seeds.

    Several seeds give the unweighted mean of their accuracies and its standard error, stdev / sqrt(seeds); where they
    share their problems, the root of its square and that of the error over problems (a little more than that of two-way
    random effects, because chance within a seed and problem counts in both). A single seed gives its accuracy and
    `stderr` (binomial if missing). Tasks are in the order of the file; within a task,
    methods are in descending order of accuracy.

    Raises:
        InputError: two rows of one group have the same seed.
    """
    groups = seeds_of(rows, source)
    names = ("task", "split", "method", "round", "search", "width")
    apart = settings_apart([group[0] for group in groups], names)
    return _ordered([_score(group, legend or Legend(), label) for group, label in zip(groups, apart, strict=True)])


def _score(rows: Sequence[AccuracyRow], legend: Legend, settings: str) -> Score:
    first = rows[0]
    accuracies, problems = [row.accuracy for row in rows], [row.n for row in rows]

    def per_problem(column: str) -> float | None:
        counts = [getattr(row, column) for row in rows]
        return None if None in counts else sum(counts) / sum(problems)

    strict = [row.accuracy if row.accuracy_strict is None else row.accuracy_strict for row in rows]
    return Score(
        task=first.task,
        split=first.split,
        method=first.method,
        label=legend.label(first.method) + ("" if first.round is None else f", round {first.round}"),
        search=first.search,
        width=first.width,
        round=first.round,
        settings=settings,
        problems=(min(problems), max(problems)),
        seeds=len(rows),
        accuracy=fmean(accuracies),
        spread=_spread(rows),
        shared=len(rows) > 1 and first.stderr_problems is not None,
        tokens_generated=per_problem("tokens_generated"),
        tokens_scored=per_problem("tokens_scored"),
        truncated=per_problem("truncated"),
        undecided=per_problem("undecided"),
        strict=None if all(row.accuracy_strict is None for row in rows) else fmean(strict),
    )


def _spread(rows: Sequence[AccuracyRow]) -> float:
    first = rows[0]
    if len(rows) == 1:
        binomial = math.sqrt(first.accuracy * (1 - first.accuracy) / first.n)
        return binomial if first.stderr is None else first.stderr
    over_seeds = stdev([row.accuracy for row in rows]) / math.sqrt(len(rows))
    return math.hypot(over_seeds, first.stderr_problems or 0.0)


def _ordered(scores: Sequence[Score]) -> list[Score]:
    blocks = list(dict.fromkeys((score.task, score.split) for score in scores))
    searches = list(SEARCH_LABELS)
    best: dict[tuple[str, str, str], float] = {}
    for score in scores:
        name = (score.task, score.split, score.method)
        best[name] = max(best.get(name, 0.0), score.accuracy)

    def place(score: Score) -> tuple[object, ...]:
        return (
            blocks.index((score.task, score.split)),
            -best[score.task, score.split, score.method],
            score.method,
            -1 if score.round is None else score.round,
            searches.index(score.search) if score.search in searches else len(searches),
            score.search,
            score.width or 0,
            score.settings,
        )

    return sorted(scores, key=place)


def aggregate_values(
    rows: Iterable[ValueRow], legend: Legend | None = None, source: str = "value.json"
) -> list[ValueScore]:
    """Aggregates the rows of each (task, split, method, metric, at, settings) over seeds, with chance levels.

    A metric `x_chance` is the chance level of metric `x` with the same key; an area under a curve (`auc…`) has chance
    level one half.

    Raises:
        InputError: two rows of one group have the same seed.
    """
    groups = seeds_of(rows, source)
    keys = [(group[0].key((*BY_SEED, "metric")), group[0].metric) for group in groups]
    chances = {key: fmean(row.estimate for row in group) for key, group in zip(keys, groups, strict=True)}
    left_out = {(key, f"{metric}_chance") for key, metric in keys}
    shown = [(key, group) for key, group in zip(keys, groups, strict=True) if key not in left_out]
    apart = settings_apart([group[0] for _, group in shown], ("task", "split", "method", "metric", "at"))
    return [
        _value_score(group, chances.get((key, f"{metric}_chance")), legend or Legend(), label)
        for ((key, metric), group), label in zip(shown, apart, strict=True)
    ]


def _value_score(rows: Sequence[ValueRow], chance: float | None, legend: Legend, settings: str) -> ValueScore:
    first = rows[0]
    lows = [row.low for row in rows if row.low is not None]
    highs = [row.high for row in rows if row.high is not None]
    counts = [row.n for row in rows if row.n is not None]
    half = 0.5 if first.metric.startswith("auc") else None
    at = first.at
    between = "" if at is None else f"at {100 * at:.0f} %" if 0 <= at <= 1 else f"at {at:g}"
    return ValueScore(
        task=first.task,
        split=first.split,
        label=legend.label(first.method) + settings,
        metric=first.metric,
        metric_label=METRIC_LABELS.get(first.metric, printable(first.metric.replace("_", " "))),
        at_label=AT_LABELS.get(at, between),
        estimate=fmean(row.estimate for row in rows),
        low=min(lows) if len(lows) == len(rows) else None,
        high=max(highs) if len(highs) == len(rows) else None,
        chance=half if chance is None else chance,
        n=(min(counts), max(counts)) if counts else None,
        seeds=len(rows),
        note="; ".join(dict.fromkeys(row.note for row in rows if row.note)),
    )
