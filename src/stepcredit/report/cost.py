"""Plot of accuracy against token cost, per search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from stepcredit.report.figures import INK, drawn_svg, figure_style
from stepcredit.report.scores import Score, aggregate, search_label
from stepcredit.results.schema import AccuracyRow

LINES = {"vote": ("o", "-"), "weighted-vote": ("s", "--"), "best-of": ("^", "-."), "beam": ("D", "-")}
COLOURS = ("#b08900", "#1f9aa0", "#d1608a", "#7c8f2e", "#9c6644", "#6c6fd1", INK)


def cost(score: Score) -> float:
    """Returns the number of tokens generated and scored per problem."""
    return (score.tokens_generated or 0.0) + (score.tokens_scored or 0.0)


def write_cost(path: Path, rows: Iterable[AccuracyRow]) -> Path:
    """Writes the plot of the rows of a `results.json` as a standalone SVG with a white background."""
    path.write_text(standing(cost_svg(aggregate(rows))), encoding="utf-8")
    return path


def standing(svg: str) -> str:
    """Converts an inline SVG to a standalone one."""
    drawn = svg.replace("currentColor", "#1b2026")
    return drawn.replace("<svg", '<svg style="background: #fff" font-family="sans-serif"', 1) + "\n"


def cost_svg(scores: Sequence[Score], name: str = "cost") -> str:
    """Plots accuracy over tokens generated and scored, with a panel per method and a line per search, as an SVG.

    Greedy decoding and sampling are single markers. Error bars are standard errors: over seeds if there are several,
    otherwise over problems.
    """
    methods = {score.method: score.label for score in scores}
    with figure_style(name):
        figure = Figure(figsize=(max(6.0, 4.4 * len(methods)), 3.6), layout="constrained")
        for number, (method, label) in enumerate(methods.items(), 1):
            axes = figure.add_subplot(1, len(methods), number)
            axes.set_xscale("log")
            axes.set_title(label, fontsize=11)
            axes.set_xlabel("tokens generated and scored per problem")
            axes.set_ylabel("accuracy %" if number == 1 else "")
            axes.set_ylim(0, 104)
            axes.grid(visible=True)
            _draw_lines(axes, [score for score in scores if score.method == method])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        legends = [axes.get_legend_handles_labels() for axes in figure.axes]
        lines = {label: line for handles, labels in legends for line, label in zip(handles, labels, strict=True)}
        figure.legend(lines.values(), lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=8.5)
        return drawn_svg(figure, name)


def _draw_lines(axes: Axes, scores: Sequence[Score]) -> None:
    searches = sorted({score.search for score in scores}, key=lambda s: [*LINES, s].index(s))
    for search, colour in zip(searches, COLOURS, strict=False):
        line = sorted((s for s in scores if s.search == search and s.width is not None), key=cost)
        marker, dashes = LINES.get(search, ("x", "none"))
        axes.errorbar(
            [cost(s) for s in line],
            [100 * s.accuracy for s in line],
            [100 * s.spread for s in line],
            marker=marker,
            linestyle=dashes,
            color=colour,
            markersize=4.5,
            linewidth=1.4,
            elinewidth=0.8,
            label=search_label(search),
        )
