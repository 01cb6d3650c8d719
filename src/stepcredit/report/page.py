"""One self-contained page from the result files in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stepcredit.errors import InputError
from stepcredit.report.figures import (
    Panel,
    accuracy_alt,
    accuracy_svg,
    check_curves,
    curve_legend,
    curve_panels,
)
from stepcredit.report.html import template, write_page
from stepcredit.report.pairs import Matrix, matrices, pair_note, points, read_pairs
from stepcredit.report.scores import Score, ValueScore, aggregate, aggregate_values, method_label
from stepcredit.report.step_credit import LOCALISATION, Signals, foresight, localisation
from stepcredit.report.tables import (
    block_label,
    count_range,
    decimal,
    interval,
    percent,
    share,
    spread_note,
    tokens,
)
from stepcredit.report.values import check_responses, pair_up, value_colour
from stepcredit.results.fields import (
    Row,
    number_of,
    optional_number,
    printable,
    read_object,
    read_rows,
    row_of,
    text_of,
)
from stepcredit.version import __version__

MOST_PAIRS = 12
MOST_OTHERS = 24
MOST_LETTERS = 2000


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page about the result files in a folder, and return where it is.

    Args:
        folder: holds `results.json` and maybe `pairs.json`, `value.json`, `localisation.json`, `curves.json`,
            `credit.json`, `timings.json` and `run.json`; the section of an absent file is left out.
        out: the page; `report.html` in the folder by default. It is written whole or not at all.

    Raises:
        InputError: `results.json` is missing or empty, a file is malformed, or `out` is a folder.
    """
    out = folder / "report.html" if out is None else out
    return write_page(out, lambda: render(folder))


def render(folder: Path) -> str:
    """The page about the result files in a folder, the same text for the same files.

    Raises:
        InputError: `results.json` is missing or empty, or a file is malformed.
    """
    rows = read_rows(folder / "results.json")
    if not rows:
        what = "holds no results.json with rows; run `stepcredit evaluate` or `stepcredit compare` into it"
        raise InputError(what, str(folder))
    scores = aggregate(rows, str(folder / "results.json"))
    filters: dict[str, Callable[..., Any]] = {
        "percent": percent,
        "share": share,
        "decimal": decimal,
        "interval": interval,
        "count_range": count_range,
        "tokens": tokens,
        "method": method_label,
        "signed": signed,
        "points": points,
        "pair_note": pair_note,
        "duration": duration,
    }
    return template("page.html.j2", filters).render(
        title="Results on " + _listed(dict.fromkeys(block_label(s.task, s.split) for s in scores)),
        blocks=_accuracy_blocks(scores),
        spread_note=spread_note(scores),
        values=_value_lines(folder),
        matrices=_matrices(folder),
        signals=_signals(folder),
        credit=_credit(folder),
        curves=_curves(folder),
        budget=_budget([row_of(row, "results.json") for row in rows]),
        timings=_timings(folder),
        settings=_settings(read_object(folder / "run.json")),
        value_colour=value_colour,
        version=__version__,
    )


def headline(scores: Sequence[Score]) -> list[str]:
    """The main numbers of one task in sentences: every method under one search, then the best search.

    The search is greedy where any method has it, otherwise the one that most methods have.
    """
    counts = Counter(score.search for score in scores)
    search = "greedy" if "greedy" in counts else max(counts, key=lambda name: (counts[name], name))
    main: dict[tuple[str, int | None], Score] = {}
    for score in scores:
        if score.search == search:
            main.setdefault((score.method, score.round), score)
    ranked = sorted(main.values(), key=lambda score: -score.accuracy)
    problems = count_range((min(s.problems[0] for s in ranked), max(s.problems[1] for s in ranked)))
    top, *others = ranked
    numbers = [f"{top.label} solves {_unbroken(top)}", *(f"{s.label} {_unbroken(s)}" for s in others)]
    sentences = [f"On {problems} problems of {block_label(top.task, top.split)}, {_listed(numbers)}."]
    best = max(scores, key=lambda score: score.accuracy)
    if best.search != search and best.accuracy > top.accuracy:
        width = "" if best.width is None else f" of width {best.width}"
        sentences.append(
            f"With {best.search_label}{width}, {best.label} reaches {_unbroken(best)}"
            f"{_price(best, main.get((best.method, best.round)))}."
        )
    return sentences


def signed(change: float | None) -> str:
    """A change of V with its sign: −0.31."""
    if change is None:
        return ""
    return decimal(change) if decimal(change).startswith("−") else "+" + decimal(change)


def duration(seconds: float) -> str:
    """Seconds in words: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def _unbroken(score: Score) -> str:
    return f"{percent(score)} %".replace(" ", "\N{NO-BREAK SPACE}")


def _price(best: Score, plain: Score | None) -> str:
    if plain is None or not plain.tokens_generated or best.tokens_generated is None:
        return ""
    return f", for {best.tokens_generated / plain.tokens_generated:.1f} times the tokens generated"


def _listed(parts: Iterable[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _accuracy_blocks(scores: Sequence[Score]) -> list[dict[str, object]]:
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.task, score.split), []).append(score)
    return [
        {
            "label": block_label(task, split),
            "headline": headline(group),
            "panel": Panel("accuracy", Markup(accuracy_svg(group, f"accuracy{i}")), accuracy_alt(group)),
            "scores": group,
        }
        for i, ((task, split), group) in enumerate(groups.items())
    ]


def _value_lines(folder: Path) -> list[tuple[ValueScore, str, dict[str, str] | None]]:
    path = folder / "value.json"
    scores = aggregate_values(read_rows(path) or [], str(path))
    return [(score, block_label(score.task, score.split), _track(score)) for score in scores]


def _track(score: ValueScore) -> dict[str, str] | None:
    """Places in percent of a line from 0 to 1, or None for a measurement on another scale."""
    ends = [score.estimate if end is None else end for end in (score.low, score.high)]
    places = {"low": ends[0], "high": ends[1], "dot": score.estimate, "chance": score.chance}
    known = {name: place for name, place in places.items() if place is not None}
    if any(not 0 <= place <= 1 for place in known.values()):
        return None
    return {name: f"{100 * place:.1f}" for name, place in known.items()}


def _credit(folder: Path) -> dict[str, object] | None:
    path = folder / "credit.json"
    responses = check_responses(read_rows(path) or [], str(path))
    if not responses:
        return None
    pairs, others = pair_up(responses)
    hidden = 2 * len(pairs[MOST_PAIRS:]) + len(others[MOST_OTHERS:])
    return {"pairs": pairs[:MOST_PAIRS], "others": others[:MOST_OTHERS], "hidden": hidden}


def _matrices(folder: Path) -> list[Matrix]:
    path = folder / "pairs.json"
    return matrices(read_pairs(read_rows(path) or [], str(path)))


def _signals(folder: Path) -> list[tuple[str, Signals]]:
    path = folder / LOCALISATION
    rows = [row_of(row, str(path)) for row in read_rows(path) or []]
    tables = {
        "Wrong steps found, in percent": localisation(rows),
        "AUC of V for final success, in percent": foresight(rows),
    }
    return [(title, found) for title, found in tables.items() if found is not None]


def _curves(folder: Path) -> dict[str, object] | None:
    path = folder / "curves.json"
    curves = check_curves(read_object(path) or {}, str(path))
    panels = [Panel(p.title, Markup(p.svg), p.alt) for p in curve_panels(curves)]
    return {"legend": curve_legend(curves), "panels": panels} if panels else None


def _budget(rows: Sequence[Row]) -> list[tuple[str, str]]:
    def total(column: str) -> float | None:
        numbers = [optional_number(row, column, "results.json") for row in rows]
        known = [number for number in numbers if number is not None]
        return sum(known) if known else None

    seeds = sorted({int(seed) for seed in (optional_number(row, "seed", "") for row in rows) if seed is not None})
    facts = [
        ("Seeds", ", ".join(map(str, seeds)) or None),
        ("Evaluations", f"{len(rows):,}"),
        ("Answers graded", tokens(total("n"))),
        ("Tokens generated in evaluation", tokens(total("tokens_generated"))),
        ("Tokens scored by a value function", tokens(total("tokens_scored"))),
    ]
    return [(name, value) for name, value in facts if value not in (None, "–")]


def _timings(folder: Path) -> list[tuple[str, float, float]]:
    path = folder / "timings.json"
    phases: dict[str, float] = {}
    for index, payload in enumerate(read_rows(path) or [], start=1):
        where = f"{path}, row {index}"
        row = row_of(payload, where)
        phase = text_of(row, "phase", where)
        phases[phase] = phases.get(phase, 0.0) + number_of(row, "seconds", where, 0.0)
    longest = max(phases.values(), default=0.0) or 1.0
    return [(phase, seconds, 100 * seconds / longest) for phase, seconds in phases.items()]


def _settings(run: Row | None) -> list[tuple[str, list[tuple[str, str]]]]:
    """Tables of names and values: the plain settings first, then one table for each group of settings."""
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for key, value in (run or {}).items():
        if isinstance(value, Mapping) and value:
            groups[printable(key)] = list(_flat(value))
        else:
            groups[""].append((printable(key), _written(value)))
    return [(name, lines) for name, lines in groups.items() if lines]


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{printable(key)}.")
        else:
            yield f"{prefix}{printable(key)}", _written(value)


def _written(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "…"
