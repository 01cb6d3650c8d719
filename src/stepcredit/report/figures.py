"""Accuracies and training curves as inline SVG: real text, the page's own ink, the same bytes every time."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stepcredit.errors import InputError
from stepcredit.report.scores import Score, method_label
from stepcredit.report.tables import percent
from stepcredit.results.fields import Row, list_of, number_of, row_of

INK = "#010203"  # stands for the colour of the text around the figure; replaced by currentColor
COLOURS = {
    "oreo": "#2476c4",
    "oreo-step": "#3fa3d9",
    "oreo-response": "#5b7fa6",
    "rft": "#e07418",
    "sft": "#858c96",
    "base": "#a9a294",
    "dpo": "#239b76",
    "kto": "#c45c9c",
    "dro": "#8a6bc9",
    "dqo": "#cf4f3e",
}
SPARE_COLOURS = ("#b08900", "#1f9aa0", "#d1608a", "#7c8f2e", "#9c6644", "#6c6fd1")
DASHES = ("", "6 2.5", "1.5 2", "8 2.5 1.5 2.5", "3.5 2")
QUANTITIES = {
    "loss": "loss",
    "loss/policy": "policy loss",
    "loss/value": "value loss",
    "kl": "KL to the reference",
    "reward": "reward",
    "entropy": "entropy",
    "values/explained_variance": "explained variance of V",
    "grad_norm": "gradient norm",
    "grad_norm/policy": "policy gradient norm",
    "grad_norm/value": "value gradient norm",
    "eval_loss": "loss, held out",
    "learning_rate": "learning rate",
}
MOST_POINTS = 300
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.8,
    "axes.linewidth": 0.8,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


@dataclass(frozen=True)
class LegendEntry:
    """A method with the colour and the dashes of its line."""

    label: str
    colour: str
    dashes: str


@dataclass(frozen=True)
class Panel:
    """One quantity over the steps of training, as SVG, with a description for those who cannot see it."""

    title: str
    svg: str
    alt: str


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour for every method: fixed for known ones, spare ones in alphabetical order for the others."""
    names = set(methods)
    unknown = sorted(names - set(COLOURS))
    spare = {name: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, name in enumerate(unknown)}
    return {name: COLOURS.get(name) or spare[name] for name in sorted(names)}


def accuracy_alt(scores: Sequence[Score]) -> str:
    """The bars of the accuracy plot as a sentence."""
    bars = [f"{score.label} with {_search(score)} {percent(score)}" for score in scores]
    return "Bar plot of accuracy in percent with standard errors: " + "; ".join(bars) + "."


def accuracy_svg(scores: Sequence[Score], name: str = "accuracy") -> str:
    """Bars of accuracy with error bars, one a score in the given order, as an inline SVG.

    `name` goes in front of every id in the figure; two figures on one page need two names.
    """
    colours = method_colours(score.method for score in scores)
    places = _bar_places(scores)
    with figure_style(name):
        figure = Figure(figsize=(5.8, 0.6 + 0.25 * (places[-1] + 1)), layout="constrained")
        axes = figure.add_subplot()
        _bare(axes)
        seen: set[str] = set()
        for place, score in zip(places, scores, strict=True):
            alpha = 0.5 if score.method in seen else 0.9
            seen.add(score.method)
            accuracy, spread = 100 * score.accuracy, 100 * score.spread
            axes.barh(place, accuracy, height=0.74, color=colours[score.method], alpha=alpha)
            axes.errorbar(accuracy, place, xerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
            axes.text(min(accuracy + spread, 100) + 1.4, place, percent(score), va="center", fontsize=9)
        axes.set_yticks(places, [_clip(f"{score.label} · {_search(score)}") for score in scores])
        axes.set_ylim(places[-1] + 0.6, -0.6)
        axes.set_xlim(0, 124)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_xlabel("accuracy, % of problems")
        axes.tick_params(axis="y", length=0)
        axes.spines["bottom"].set_visible(False)
        return drawn_svg(figure, name)


def check_curves(payload: Row, source: str = "curves.json") -> dict[str, list[Row]]:
    """The curves of every method that has any.

    Raises:
        InputError: a method does not hold a list of objects with a `step`, or a quantity is no number.
    """
    curves: dict[str, list[Row]] = {}
    for method in payload:
        rows = []
        for index, item in enumerate(list_of(payload, method, source), start=1):
            where = f"{source}, {method!r} row {index}"
            row = row_of(item, where)
            number_of(row, "step", where)
            for quantity in QUANTITIES:
                _point(row, quantity, where)
            rows.append(row)
        if rows:
            curves[method] = rows
    return curves


def curve_legend(curves: Mapping[str, Sequence[Row]]) -> list[LegendEntry]:
    """How the line of every method looks."""
    colours = method_colours(curves)
    return [
        LegendEntry(method_label(method), colours[method], DASHES[index % len(DASHES)])
        for index, method in enumerate(_line_order(curves))
    ]


def curve_panels(curves: Mapping[str, Sequence[Row]]) -> list[Panel]:
    """One panel for each known quantity that has a finite point, a line for each method.

    Values that are not finite leave a gap. A line of more than 300 points is averaged down to 300.
    """
    panels = []
    for index, (quantity, title) in enumerate(QUANTITIES.items()):
        lines = {method: _line(curves[method], quantity) for method in _line_order(curves)}
        lines = {method: line for method, line in lines.items() if np.isfinite(line[1]).any()}
        if lines:
            svg = _panel_svg(lines, curve_legend(curves), _line_order(curves), f"curve{index}")
            panels.append(Panel(title, svg, _curve_alt(title, lines)))
    return panels


@contextmanager
def figure_style(name: str) -> Iterator[None]:
    """Our settings alone, whatever the reader's matplotlibrc says; everything is put back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, "svg.hashsalt": name})
        yield


def _search(score: Score) -> str:
    return score.search_label if score.width is None else f"{score.search_label}, {score.width}"


def _clip(text: str, most: int = 44) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _bar_places(scores: Sequence[Score]) -> list[float]:
    places: list[float] = []
    for last, score in zip([None, *scores], scores, strict=False):
        if last is None:
            places.append(0.0)
        else:
            places.append(places[-1] + (1.0 if last.method == score.method else 1.35))
    return places


def _bare(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)


def _point(row: Row, quantity: str, where: str = "curves") -> float:
    value = row.get(quantity)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"field {quantity!r} must be a number or null, found {value!r:.60}", where)
    return float(value) if abs(value) < 1e300 else math.nan


def _line(rows: Sequence[Row], quantity: str) -> tuple[np.ndarray, np.ndarray]:
    points = sorted(
        (number_of(row, "step", "curves"), index, _point(row, quantity))
        for index, row in enumerate(rows)
        if quantity in row
    )
    steps = np.array([point[0] for point in points], dtype=float)
    values = np.array([point[2] for point in points], dtype=float)
    if len(points) > MOST_POINTS:
        steps = np.array([part.mean() for part in np.array_split(steps, MOST_POINTS)])
        values = np.array([part.mean() for part in np.array_split(values, MOST_POINTS)])
    return steps, values


def _line_order(methods: Iterable[str]) -> list[str]:
    """The method of the house first, with the unbroken line, then the others by name."""
    return sorted(methods, key=lambda method: (method != "oreo", method))


def _curve_alt(title: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    parts = []
    for method, (steps, values) in lines.items():
        finite = np.isfinite(values)
        first, last = values[finite][0], values[finite][-1]
        parts.append(f"{method_label(method)} from {first:.3g} to {last:.3g} at step {steps[finite][-1]:g}")
    return f"Line plot of {title} over training steps: " + "; ".join(parts) + "."


def _panel_svg(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    legend: Sequence[LegendEntry],
    methods: Sequence[str],
    name: str,
) -> str:
    with figure_style(name):
        figure = Figure(figsize=(3.7, 2.25), layout="constrained")
        axes = figure.add_subplot()
        _bare(axes)
        axes.grid(axis="y")
        for method, (steps, values) in lines.items():
            entry = legend[methods.index(method)]
            dashes = [float(part) / 1.6 for part in entry.dashes.split()]
            style = (0, tuple(dashes)) if dashes else "-"
            marker = "o" if len(steps) < 3 else ""
            axes.plot(steps, values, color=entry.colour, lw=1.6, ls=style, marker=marker, ms=4)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("step")
        return drawn_svg(figure, name)


def drawn_svg(figure: Figure, name: str) -> str:
    """A figure as an inline SVG: the same bytes every time, ids of its own, the ink of the text around it."""
    buffer = io.StringIO()
    metadata: dict[str, None] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.patch.set_visible(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    text = buffer.getvalue()
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    return re.sub(r"<[^>]*>", lambda tag: _own_tag(tag.group(), name), text).strip()


def _own_tag(tag: str, name: str) -> str:
    """The tag with ids of this figure's own, the page's ink, and without fixed size and font."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", tag)
    tag = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "inherit", tag) if tag.startswith("<text") else tag
    if tag.startswith("<svg"):
        tag = re.sub(r' (width|height)="[^"]*"', "", tag).replace("<svg", '<svg stroke-linejoin="round"', 1)
    return tag.replace(INK, "currentColor")
