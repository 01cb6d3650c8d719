"""Plots of accuracies, rounds and training curves as inline SVG: real text, the page's ink, reproducible bytes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stepcredit.report.formatting import block_label
from stepcredit.report.legend import Legend
from stepcredit.report.scores import Score

Curves = Mapping[str, Sequence[Mapping[str, float]]]
Numbers = NDArray[np.float64]

INK = "#010203"  # stands for the colour of the text around the figure; replaced by currentColor
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
class Line:
    """Label and style of the line of a method."""

    label: str
    colour: str
    dashes: str


@dataclass(frozen=True)
class Panel:
    """Plot as SVG, with a text alternative."""

    title: str
    svg: str
    alt: str


def accuracy_alt(scores: Sequence[Score]) -> str:
    """Returns the text alternative of the accuracy plot."""
    bars = [f"{score.label} with {_search(score)} {score.percent}" for score in scores]
    return "Bar plot of accuracy in percent with standard errors: " + "; ".join(bars) + "."


def accuracy_svg(scores: Sequence[Score], legend: Legend | None = None, name: str = "accuracy") -> str:
    """Plots accuracies as bars with error bars, one per score, as an inline SVG.

    `name` prefixes every id in the figure and must be unique on a page.
    """
    legend = legend or Legend()
    gaps = [1.0 if one.method == other.method else 1.35 for one, other in pairwise(scores)]
    places = list(accumulate(gaps, initial=0.0))
    with figure_style(name):
        figure = Figure(figsize=(5.8, 0.6 + 0.25 * (places[-1] + 1)), layout="constrained")
        axes = figure.add_subplot()
        _bare(axes)
        seen: set[str] = set()
        for place, score in zip(places, scores, strict=True):
            alpha = 0.5 if score.method in seen else 0.9
            seen.add(score.method)
            accuracy, spread = 100 * score.accuracy, 100 * score.spread
            axes.barh(place, accuracy, height=0.74, color=legend.colour(score.method), alpha=alpha)
            axes.errorbar(accuracy, place, xerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
            axes.text(min(accuracy + spread, 100) + 1.4, place, score.percent, va="center", fontsize=9)
        axes.set_yticks(places, [_clip(f"{score.label} · {_search(score)}") for score in scores])
        axes.set_ylim(places[-1] + 0.6, -0.6)
        axes.set_xlim(0, 124)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_xlabel("accuracy, % of problems")
        axes.tick_params(axis="y", length=0)
        axes.spines["bottom"].set_visible(False)
        return drawn_svg(figure, name)


def curve_lines(curves: Curves, legend: Legend) -> dict[str, Line]:
    """Returns label and style of the line of each method."""
    dashes = {method: DASHES[k % len(DASHES)] for k, method in enumerate(curves)}
    return {method: Line(legend.label(method), legend.colour(method), dashes[method]) for method in curves}


def curve_panels(curves: Curves, legend: Legend) -> list[Panel]:
    """Plots one panel per known quantity with a finite value, with a line per method.

    Non-finite values leave a gap. Lines of more than 300 points are averaged down to 300.
    """
    panels, looks = [], curve_lines(curves, legend)
    for index, (quantity, title) in enumerate(QUANTITIES.items()):
        points = {method: _points(rows, quantity) for method, rows in curves.items()}
        drawn = [(looks[method], *of) for method, of in points.items() if np.isfinite(of[1]).any()]
        if drawn:
            panels.append(Panel(title, _panel_svg(drawn, f"curve{index}"), _curve_alt(title, drawn)))
    return panels


def round_panels(scores: Sequence[Score], legend: Legend) -> list[Panel]:
    """Plots accuracy per round of iterative training with error bars, one panel per task and split, with a line per
    method and search; none if no method has several rounds."""
    lines: dict[tuple[str, str], dict[tuple[str, str], list[Score]]] = {}
    for score in scores:
        if score.round is not None:
            of_split = lines.setdefault((score.task, score.split), {})
            of_split.setdefault((score.method, _search(score)), []).append(score)
    panels = []
    for k, ((task, split), of_split) in enumerate(lines.items()):
        drawn = {key: sorted(line, key=_round) for key, line in of_split.items() if len({*map(_round, line)}) > 1}
        if drawn:
            title = block_label(task, split)
            panels.append(Panel(title, _rounds_svg(drawn, legend, f"rounds{k}"), _rounds_alt(title, drawn, legend)))
    return panels


def _round(score: Score) -> int:
    return score.round or 0


def _rounds_alt(title: str, drawn: Mapping[tuple[str, str], Sequence[Score]], legend: Legend) -> str:
    parts = [
        f"{legend.label(method)} with {search} {', '.join(f'{s.percent} in round {_round(s)}' for s in line)}"
        for (method, search), line in drawn.items()
    ]
    return f"Line plot of accuracy in percent per round on {title}, with standard errors: " + "; ".join(parts) + "."


def _rounds_svg(drawn: Mapping[tuple[str, str], Sequence[Score]], legend: Legend, name: str) -> str:
    searches = list(dict.fromkeys(search for _, search in drawn))
    with figure_style(name):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        _bare(axes)
        axes.grid(axis="y")
        for k, ((method, search), line) in enumerate(drawn.items()):
            dashes = [float(part) / 1.6 for part in DASHES[searches.index(search) % len(DASHES)].split()]
            axes.errorbar(
                [
                    _round(s) + 0.03 * (k - (len(drawn) - 1) / 2) for s in line
                ],  # apart, so that no whisker hides another
                [100 * s.accuracy for s in line],
                yerr=[100 * s.spread for s in line],
                color=legend.colour(method),
                ls=(0, tuple(dashes)) if dashes else "-",
                marker="o",
                ms=4,
                lw=1.6,
                elinewidth=1,
                capsize=2.5,
                label=_clip(f"{legend.label(method)} · {search}"),
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("round; 0 is the start")
        axes.set_ylabel("accuracy, % of problems")
        axes.legend(frameon=False, fontsize=8.5)
        return drawn_svg(figure, name)


@contextmanager
def figure_style(name: str) -> Iterator[None]:
    """Context manager of the plot style, independent of the user's matplotlibrc, which is restored afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, "svg.hashsalt": name})
        yield


def _search(score: Score) -> str:
    return score.search_label if score.width is None else f"{score.search_label}, {score.width}"


def _clip(text: str, most: int = 44) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _bare(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)


def _points(rows: Sequence[Mapping[str, float]], quantity: str) -> tuple[Numbers, Numbers]:
    points = sorted((row["step"], index, row[quantity]) for index, row in enumerate(rows) if quantity in row)
    steps = np.array([point[0] for point in points], dtype=float)
    values = np.array([point[2] for point in points], dtype=float)
    if len(points) > MOST_POINTS:
        steps = np.array([part.mean() for part in np.array_split(steps, MOST_POINTS)])
        values = np.array([part.mean() for part in np.array_split(values, MOST_POINTS)])
    return steps, values


def _curve_alt(title: str, drawn: Sequence[tuple[Line, Numbers, Numbers]]) -> str:
    parts = []
    for line, steps, values in drawn:
        finite = np.isfinite(values)
        first, last = values[finite][0], values[finite][-1]
        parts.append(f"{line.label} from {first:.3g} to {last:.3g} at step {steps[finite][-1]:g}")
    return f"Line plot of {title} over training steps: " + "; ".join(parts) + "."


def _panel_svg(drawn: Sequence[tuple[Line, Numbers, Numbers]], name: str) -> str:
    with figure_style(name):
        figure = Figure(figsize=(3.7, 2.25), layout="constrained")
        axes = figure.add_subplot()
        _bare(axes)
        axes.grid(axis="y")
        for line, steps, values in drawn:
            dashes = [float(part) / 1.6 for part in line.dashes.split()]
            style = (0, tuple(dashes)) if dashes else "-"
            marker = "o" if len(steps) < 3 else ""
            axes.plot(steps, values, color=line.colour, lw=1.6, ls=style, marker=marker, ms=4)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("step")
        return drawn_svg(figure, name)


def drawn_svg(figure: Figure, name: str) -> str:
    """Renders a figure as an inline SVG with reproducible bytes, unique ids and the color of the surrounding text."""
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
    """Rewrites an SVG tag: unique ids, the page's text color, no fixed size or font."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", tag)
    tag = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "inherit", tag) if tag.startswith("<text") else tag
    if tag.startswith("<svg"):
        tag = re.sub(r' (width|height)="[^"]*"', "", tag).replace("<svg", '<svg stroke-linejoin="round"', 1)
    return tag.replace(INK, "currentColor")
