"""Rows of `localisation.json` over seeds: which signal finds wrong steps, and how well V foretells success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from stepcredit.report.tables import MISSING
from stepcredit.results.fields import Row, number_of, optional_number, text_of

LOCALISATION = "localisation.json"

Numbers = dict[tuple[str, str, float | None], list[float]]
"""The estimates of all seeds by (signal, metric, share of the response that is written)."""


@dataclass(frozen=True)
class Line:
    """A signal and its measurements in words."""

    name: str
    cells: list[str]


@dataclass(frozen=True)
class Signals:
    """A table of signals: means over seeds ± their standard errors, in percent."""

    header: list[str]
    lines: list[Line]


def localisation(rows: Sequence[Row]) -> Signals | None:
    """Which signal finds wrong steps; None where nothing was measured.

    Raises:
        InputError: a row is malformed.
    """
    metrics = ("first_wrong_step", "kind_matched_pairs", "kind_matched_pairs_all")
    numbers = _by_signal(rows)
    lines = [
        Line(signal, [spread(numbers.get((signal, metric, None))) for metric in metrics])
        for signal in _signals(numbers, metrics)
    ]
    chance = numbers.get(("chance", "first_wrong_step_chance", None))
    if chance is not None:
        lines.append(Line("chance", [spread(chance), "50.0", "50.0"]))
    header = ["signal", "largest drop is the first wrong step", "below a right step of its kind", "the same, all steps"]
    return Signals(header, lines) if lines else None


def foresight(rows: Sequence[Row]) -> Signals | None:
    """AUC of V for final success, within a problem and across; None where nothing was measured.

    Raises:
        InputError: a row is malformed.
    """
    metrics = {"auc_within_prompt": "within", "auc_across_prompts": "across"}
    numbers = _by_signal(rows)
    shares = sorted({at for _, metric, at in numbers if metric in metrics and at is not None})
    lines = [
        Line(signal, [spread(numbers.get((signal, metric, share))) for metric in metrics for share in shares])
        for signal in _signals(numbers, metrics)
    ]
    header = ["signal", *(f"{where} {share:.0%}" for where in metrics.values() for share in shares)]
    return Signals(header, lines) if lines else None


def _signals(numbers: Numbers, metrics: Sequence[str] | dict[str, str]) -> list[str]:
    return list(dict.fromkeys(signal for signal, metric, _ in numbers if metric in metrics))


def _by_signal(rows: Sequence[Row]) -> Numbers:
    found: Numbers = {}
    for k, row in enumerate(rows, 1):
        where = f"{LOCALISATION}, row {k}"
        if "against" not in row:
            at = optional_number(row, "at", where)
            key = (text_of(row, "signal", where), text_of(row, "metric", where), at)
            found.setdefault(key, []).append(number_of(row, "estimate", where))
    return found


def spread(numbers: Sequence[float] | None) -> str:
    """Mean over seeds in percent, ± its standard error where there are several."""
    if not numbers:
        return MISSING
    mean = f"{100 * fmean(numbers):.1f}"
    return mean if len(numbers) < 2 else f"{mean} ± {100 * stdev(numbers) / len(numbers) ** 0.5:.1f}"
