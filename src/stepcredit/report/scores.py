"""Result rows put together over seeds: accuracies, and what value functions know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from stepcredit.errors import InputError
from stepcredit.results.fields import (
    Row,
    count_of,
    number_of,
    optional_count,
    optional_number,
    printable,
    row_of,
    text_of,
)

METHOD_LABELS = {
    "base": "base model",
    "sft": "SFT",
    "rft": "rejection sampling",
    "dpo": "DPO",
    "kto": "KTO",
    "topr": "TOPR",
    "dro": "DRO",
    "dqo": "DQO",
    "dqo-unweighted": "DQO (unweighted)",
    "dqo-process": "DQO (process rewards)",
    "oreo": "OREO",
    "oreo-step": "OREO (step)",
    "oreo-response": "OREO (response)",
    "oreo-sampled-kl": "OREO (sampled KL)",
    "oreo-process": "OREO (process rewards)",
}
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
AT_LABELS = {0.0: "at the start", 0.5: "halfway", 1.0: "at the end"}


@dataclass(frozen=True)
class Score:
    """The accuracy of one method under one search, over all its seeds.

    `spread` is the standard error of the mean over seeds when there are several seeds, otherwise the
    standard error over problems. `problems` is the smallest and the largest number of problems that a seed
    saw. Tokens are per problem; `truncated` and `undecided` are shares of the problems. `strict` is the accuracy
    that counts only answers behind the marker that was asked for. None: not recorded.
    """

    task: str
    split: str
    method: str
    search: str
    width: int | None
    round: int | None
    problems: tuple[int, int]
    seeds: int
    accuracy: float
    spread: float
    tokens_generated: float | None
    tokens_scored: float | None
    truncated: float | None
    undecided: float | None
    strict: float | None = None

    @property
    def label(self) -> str:
        """The method, and the round where there are rounds."""
        return method_label(self.method) + ("" if self.round is None else f", round {self.round}")

    @property
    def search_label(self) -> str:
        """The search in words."""
        return SEARCH_LABELS.get(self.search, printable(self.search))


@dataclass(frozen=True)
class ValueScore:
    """One measurement of a value function, over all its seeds.

    `low` and `high` are the recorded interval of a single seed; with several seeds they cover the interval
    of every seed. `chance` is what a value function that knows nothing reaches. None: not recorded.
    """

    task: str
    split: str
    method: str
    metric: str
    at: float | None
    estimate: float
    low: float | None
    high: float | None
    chance: float | None
    n: tuple[int, int] | None
    seeds: int
    note: str

    @property
    def metric_label(self) -> str:
        """The measurement in words."""
        return METRIC_LABELS.get(self.metric, printable(self.metric.replace("_", " ")))

    @property
    def at_label(self) -> str:
        """Where in the response V was read, in words."""
        if self.at is None:
            return ""
        return AT_LABELS.get(self.at, f"at {100 * self.at:.0f} %" if 0 <= self.at <= 1 else f"at {self.at:g}")


ScoreKey = tuple[str, str, str, str, int | None, int | None]
ValueKey = tuple[str, str, str, str, float | None]


def method_label(method: str) -> str:
    """The method in words."""
    return METHOD_LABELS.get(method, printable(method))


def _enter(seeds: dict[int | None, Row], row: Row, where: str) -> None:
    seed = optional_count(row, "seed", where)
    if seed in seeds:
        what = f"an earlier row has the same names and seed ({seed}): give every row a seed of its own"
        raise InputError(what, where)
    seeds[seed] = row


def _check_result(row: Row, where: str) -> ScoreKey:
    number_of(row, "accuracy", where, 0.0, 1.0)
    count_of(row, "n", where)
    if (optional_number(row, "stderr", where) or 0) < 0:
        raise InputError("field 'stderr' must be at least 0", where)
    for column in ("tokens_generated", "tokens_scored", "truncated", "undecided"):
        optional_count(row, column, where)
    return (
        text_of(row, "task", where),
        text_of(row, "split", where, ""),
        text_of(row, "method", where),
        text_of(row, "search", where),
        optional_count(row, "width", where),
        optional_count(row, "round", where),
    )


def _share(rows: Sequence[Row], key: str, problems: int) -> float | None:
    counts = [optional_count(row, key, key) for row in rows]
    known = [count for count in counts if count is not None]
    return sum(known) / problems if len(known) == len(rows) else None


def _score(key: ScoreKey, rows: Sequence[Row]) -> Score:
    accuracies = [number_of(row, "accuracy", "accuracy") for row in rows]
    problems = [count_of(row, "n", "n") for row in rows]
    if len(rows) > 1:
        spread = stdev(accuracies) / math.sqrt(len(rows))
    else:
        recorded = optional_number(rows[0], "stderr", "stderr")
        binomial = math.sqrt(accuracies[0] * (1 - accuracies[0]) / problems[0])
        spread = binomial if recorded is None else recorded
    columns = ("tokens_generated", "tokens_scored", "truncated", "undecided")
    generated, scored, truncated, undecided = (_share(rows, column, sum(problems)) for column in columns)
    strict = [optional_number(row, "accuracy_strict", "accuracy_strict") for row in rows]
    known = [accuracy if s is None else s for s, accuracy in zip(strict, accuracies, strict=True)]
    told = None if all(s is None for s in strict) else fmean(known)
    return Score(
        *key,
        problems=(min(problems), max(problems)),
        seeds=len(rows),
        accuracy=fmean(accuracies),
        spread=spread,
        tokens_generated=generated,
        tokens_scored=scored,
        truncated=truncated,
        undecided=undecided,
        strict=told,
    )


def aggregate(rows: Iterable[object], source: str = "results.json") -> list[Score]:
    """Put the rows of each (task, split, method, search, width, round) together over seeds.

    Several seeds give the unweighted mean of their accuracies and its standard error, stdev / sqrt(seeds);
    a single seed keeps its own accuracy and `stderr`, which is binomial where the row has none. Tasks stay
    in the order of the file; within a task the method with the best accuracy comes first.

    Raises:
        InputError: a row is malformed, or two rows of one group have the same seed.
    """
    groups: dict[ScoreKey, dict[int | None, Row]] = {}
    for index, payload in enumerate(rows, start=1):
        where = f"{source}, row {index}"
        row = row_of(payload, where)
        _enter(groups.setdefault(_check_result(row, where), {}), row, where)
    return _ordered([_score(key, list(seeds.values())) for key, seeds in groups.items()])


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
        )

    return sorted(scores, key=place)


def _check_value(row: Row, where: str) -> ValueKey:
    number_of(row, "estimate", where)
    low, high = optional_number(row, "low", where), optional_number(row, "high", where)
    if low is not None and high is not None and low > high:
        raise InputError("field 'low' must not be above field 'high'", where)
    optional_count(row, "n", where)
    text_of(row, "note", where, "")
    return (
        text_of(row, "task", where, ""),
        text_of(row, "split", where, ""),
        text_of(row, "method", where),
        text_of(row, "metric", where),
        optional_number(row, "at", where),
    )


def _value_score(key: ValueKey, rows: Sequence[Row]) -> ValueScore:
    def known(column: str) -> list[float]:
        numbers = [optional_number(row, column, column) for row in rows]
        return [number for number in numbers if number is not None]

    lows, highs, counts = known("low"), known("high"), known("n")
    notes = dict.fromkeys(text_of(row, "note", "note", "") for row in rows)
    return ValueScore(
        *key,
        estimate=fmean(known("estimate")),
        low=min(lows) if len(lows) == len(rows) else None,
        high=max(highs) if len(highs) == len(rows) else None,
        chance=0.5 if key[3].startswith("auc") else None,
        n=(int(min(counts)), int(max(counts))) if counts else None,
        seeds=len(rows),
        note="; ".join(note for note in notes if note),
    )


def aggregate_values(rows: Iterable[object], source: str = "value.json") -> list[ValueScore]:
    """Put the rows of each (task, split, method, metric, at) together over seeds, chance beside them.

    A metric named `x_chance` becomes the chance level of metric `x` of the same task, split, method and
    `at`; an area under a curve (`auc…`) has chance level one half.

    Raises:
        InputError: a row is malformed, or two rows of one group have the same seed.
    """
    groups: dict[ValueKey, dict[int | None, Row]] = {}
    for index, payload in enumerate(rows, start=1):
        where = f"{source}, row {index}"
        row = row_of(payload, where)
        _enter(groups.setdefault(_check_value(row, where), {}), row, where)
    scores = [_value_score(key, list(seeds.values())) for key, seeds in groups.items()]
    chances = {(s.task, s.split, s.method, s.metric, s.at): s.estimate for s in scores}
    names = {(s.task, s.split, s.method, s.metric + "_chance", s.at) for s in scores}
    return [
        replace(s, chance=chances.get((s.task, s.split, s.method, s.metric + "_chance", s.at), s.chance))
        for s in scores
        if (s.task, s.split, s.method, s.metric, s.at) not in names
    ]
