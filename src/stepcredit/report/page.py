"""Report page: one self-contained HTML page of the result files in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stepcredit.errors import InputError
from stepcredit.report import formatting
from stepcredit.report.figures import Panel, accuracy_alt, accuracy_svg, curve_lines, curve_panels, round_panels
from stepcredit.report.formatting import block_label, count, count_range, listed
from stepcredit.report.html import template, write_page
from stepcredit.report.legend import Legend
from stepcredit.report.pairs import is_clear, matrices, pair_note
from stepcredit.report.scores import Score, ValueScore, aggregate, aggregate_values
from stepcredit.report.step_credit import foresight, localisation
from stepcredit.report.step_values import marked, pair_up, value_colour
from stepcredit.report.tables import spread_note
from stepcredit.results.row_files import read_curves, read_object, read_rows
from stepcredit.results.schema import AccuracyRow, CreditExample, PairRow, PhaseTime, SignalRow, ValueRow

MOST_PAIRS = 12
MOST_OTHERS = 24
MOST_LETTERS = 2000
FILTERS: dict[str, Callable[..., Any]] = {
    "share": formatting.share,
    "decimal": formatting.decimal,
    "interval": formatting.interval,
    "count": count,
    "count_range": count_range,
    "signed": formatting.signed,
    "points": formatting.points,
    "duration": formatting.duration,
    "block_label": block_label,
    "pair_note": pair_note,
    "clear": is_clear,
    "value_colour": value_colour,
}


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes the report of the result files in a folder and returns its path.

    Args:
        folder: folder with `results.json` and optionally `pairs.json`, `value.json`, `localisation.json`,
            `curves.json`, `credit.json`, `timings.json` and `run.json`; the section of a missing file is omitted.
        out: the page, written atomically; by default `report.html` in the folder.

    Raises:
        InputError: `results.json` is missing or empty, a file is malformed, or `out` is a folder.
    """
    out = folder / "report.html" if out is None else out
    return write_page(out, lambda: render(folder))


def render(folder: Path) -> str:
    """Renders the report of the result files in a folder; deterministic.

    Raises:
        InputError: `results.json` is missing or empty, or a file is malformed.
    """
    rows = read_rows(folder / "results.json", AccuracyRow)
    if not rows:
        what = "holds no results.json with rows; run `stepcredit evaluate` or `stepcredit compare` into it"
        raise InputError(what, str(folder))
    legend, run = Legend.of(folder), read_object(folder / "run.json")
    scores = aggregate(rows, legend, str(folder / "results.json"))
    values, signals = folder / "value.json", read_rows(folder / "localisation.json", SignalRow)
    tables = {
        "Wrong steps found, in percent": localisation(signals),
        "AUC of V for final success, in percent": foresight(signals),
    }
    return template("page.html.j2", FILTERS).render(
        title="Results on " + listed(list(dict.fromkeys(block_label(s.task, s.split) for s in scores))),
        blocks=_accuracy_blocks(scores, legend),
        spread_note=spread_note(scores),
        rounds=[Panel(p.title, Markup(p.svg), p.alt) for p in round_panels(scores, legend)],
        values=[(v, _track(v)) for v in aggregate_values(read_rows(values, ValueRow), legend, str(values))],
        matrices=matrices(read_rows(folder / "pairs.json", PairRow), legend),
        signals=[(title, table) for title, table in tables.items() if table.lines],
        credit=_credit(read_rows(folder / "credit.json", CreditExample)),
        curves=_curves(folder, legend),
        budget=_budget(rows),
        timings=_timings(read_rows(folder / "timings.json", PhaseTime)),
        settings=_settings({k: v for k, v in run.items() if k != "methods" or isinstance(v, list)}),
    )


def headline(scores: Sequence[Score]) -> list[str]:
    """Returns sentences with the main results of one task: every method under one search, then the best search.

    The search is greedy if any method has it, otherwise the most common one.
    """
    counts = Counter(score.search for score in scores)
    search = "greedy" if "greedy" in counts else max(counts, key=lambda name: (counts[name], name))
    main: dict[tuple[str, int | None, str], Score] = {}
    for score in scores:
        if score.search == search:
            main.setdefault((score.method, score.round, score.settings), score)
    ranked = sorted(main.values(), key=lambda score: -score.accuracy)
    problems = count_range((min(s.problems[0] for s in ranked), max(s.problems[1] for s in ranked)))
    top, *others = ranked
    numbers = [f"{s.label}{s.settings} {_unbroken(s)}" for s in others]
    numbers = [f"{top.label}{top.settings} solves {_unbroken(top)}", *numbers]
    sentences = [f"On {problems} problems of {block_label(top.task, top.split)}, {listed(numbers)}."]
    best = max(scores, key=lambda score: score.accuracy)
    if best.search != search and best.accuracy > top.accuracy:
        width = "" if best.width is None else f" of width {best.width}"
        sentences.append(
            f"With {best.search_label}{width}, {best.label} reaches {_unbroken(best)}"
            f"{_price(best, main.get((best.method, best.round, best.settings)))}."
        )
    return sentences


def _unbroken(score: Score) -> str:
    return f"{score.percent} %".replace(" ", "\N{NO-BREAK SPACE}")


def _price(best: Score, plain: Score | None) -> str:
    if plain is None or not plain.tokens_generated or best.tokens_generated is None:
        return ""
    return f", for {best.tokens_generated / plain.tokens_generated:.1f} times the tokens generated"


def _accuracy_blocks(scores: Sequence[Score], legend: Legend) -> list[dict[str, object]]:
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.task, score.split), []).append(score)
    return [
        {
            "label": block_label(task, split),
            "headline": headline(group),
            "panel": Panel("accuracy", Markup(accuracy_svg(group, legend, f"accuracy{i}")), accuracy_alt(group)),
            "scores": group,
        }
        for i, ((task, split), group) in enumerate(groups.items())
    ]


def _track(score: ValueScore) -> dict[str, str] | None:
    """Returns positions on a scale from 0 to 1, in percent; None if the metric has another scale."""
    ends = [score.estimate if end is None else end for end in (score.low, score.high)]
    places = {"low": ends[0], "high": ends[1], "dot": score.estimate, "chance": score.chance}
    known = {name: place for name, place in places.items() if place is not None}
    if any(not 0 <= place <= 1 for place in known.values()):
        return None
    return {name: f"{100 * place:.1f}" for name, place in known.items()}


def _credit(examples: Sequence[CreditExample]) -> dict[str, object] | None:
    if not examples:
        return None
    pairs, others = pair_up([marked(example) for example in examples])
    hidden = 2 * len(pairs[MOST_PAIRS:]) + len(others[MOST_OTHERS:])
    return {"pairs": pairs[:MOST_PAIRS], "others": others[:MOST_OTHERS], "hidden": hidden}


def _curves(folder: Path, legend: Legend) -> dict[str, object] | None:
    curves = read_curves(folder / "curves.json")
    panels = [Panel(p.title, Markup(p.svg), p.alt) for p in curve_panels(curves, legend)]
    return {"lines": curve_lines(curves, legend).values(), "panels": panels} if panels else None


def _budget(rows: Sequence[AccuracyRow]) -> list[tuple[str, str]]:
    seeds = sorted({row.seed for row in rows if row.seed is not None})
    facts = [("Seeds", ", ".join(map(str, seeds)))] if seeds else []
    facts += [("Evaluations", count(len(rows))), ("Answers graded", count(sum(row.n for row in rows)))]
    for column, label in (("generated", "generated in evaluation"), ("scored", "scored by a value function")):
        numbers = [getattr(row, f"tokens_{column}") for row in rows]
        recorded = [number for number in numbers if number is not None]
        facts += [(f"Tokens {label}", count(sum(recorded)))] if recorded else []
    return facts


def _timings(times: Sequence[PhaseTime]) -> list[tuple[str, float, float]]:
    phases: dict[str, float] = {}
    for time in times:
        phases[time.phase] = phases.get(time.phase, 0.0) + time.seconds
    longest = max(phases.values(), default=0.0) or 1.0
    return [(phase, seconds, 100 * seconds / longest) for phase, seconds in phases.items()]


def _settings(run: Mapping[str, object]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns tables of names and values: the plain settings first, then one table per group of settings."""
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for key, value in run.items():
        if isinstance(value, Mapping) and value:
            groups[key] = list(_flat(value))
        else:
            groups[""].append((key, _written(value)))
    return [(name, lines) for name, lines in groups.items() if lines]


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _written(value)


def _written(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "…"
