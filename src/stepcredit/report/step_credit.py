"""Tables of `localisation.json` over seeds: localisation of wrong steps by signal, and AUC of V."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepcredit.report.formatting import over_seeds
from stepcredit.results.schema import SignalRow

Numbers = dict[tuple[str, str, float | None], list[float]]
"""(signal, metric, share of the response) → estimates of all seeds."""


@dataclass(frozen=True)
class SignalTable:
    """Table of signals, one per line: means over seeds ± standard errors, in percent."""

    header: list[str]
    lines: list[list[str]]


def localisation(rows: Sequence[SignalRow]) -> SignalTable:
    """Returns the table of localisation of wrong steps."""
    metrics = ["first_wrong_step", "kind_matched_pairs", "kind_matched_pairs_all"]
    numbers = _by_signal(rows)
    lines = _lines(numbers, [(metric, None) for metric in metrics])
    chance = numbers.get(("chance", "first_wrong_step_chance", None))
    if chance is not None:
        lines.append(["chance", over_seeds(chance), "50.0", "50.0"])
    header = ["signal", "largest drop is the first wrong step", "below a right step of its kind", "the same, all steps"]
    return SignalTable(header, lines)


def foresight(rows: Sequence[SignalRow]) -> SignalTable:
    """Returns the table of the AUC of V for final success, within and across prompts."""
    metrics = {"auc_within_prompt": "within", "auc_across_prompts": "across"}
    numbers = _by_signal(rows)
    shares = sorted({at for _, metric, at in numbers if metric in metrics and at is not None})
    columns = [(metric, share) for metric in metrics for share in shares]
    return SignalTable(["signal", *(f"{metrics[m]} {share:.0%}" for m, share in columns)], _lines(numbers, columns))


def _lines(numbers: Numbers, columns: Sequence[tuple[str, float | None]]) -> list[list[str]]:
    signals = dict.fromkeys(signal for signal, *column in numbers if tuple(column) in columns)
    return [[s, *(over_seeds(numbers.get((s, *column))) for column in columns)] for s in signals]


def _by_signal(rows: Sequence[SignalRow]) -> Numbers:
    numbers: Numbers = {}
    for row in rows:
        if row.against is None:
            numbers.setdefault((row.signal, row.metric, row.at), []).append(row.estimate)
    return numbers
