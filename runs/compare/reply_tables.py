"""What K replies a turn are worth: the most valued one beside any of them, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markdown_tables import table
from matplotlib.figure import Figure

from stepcredit.report.figures import INK, drawn_svg, figure_style
from stepcredit.report.formatting import MISSING
from stepcredit.report.legend import Legend
from stepcredit.report.scores import Score, aggregate
from stepcredit.results.schema import AccuracyRow


@dataclass(frozen=True)
class Replies:
    """One policy on one split: its scores by K. K = 1 is sampling by the seeds that tried several.

    Attributes:
        method, label: which policy, and how it is called.
        split: which split.
        by_value: the reply said is the most valued of K.
        at_random: it is any of them.
        greedy: one reply, the likeliest.
    """

    method: str
    label: str
    split: str
    by_value: dict[int, Score]
    at_random: dict[int, Score]
    greedy: Score | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.label}, {self.split}"


def replies(rows: Sequence[AccuracyRow], splits: Sequence[str], legend: Legend) -> list[Replies]:
    """Every policy and split that was tried with several replies."""
    tried = {(r.method, r.split, r.seed) for r in rows if r.search == "best-of"}
    same = [r for r in rows if (r.method, r.split, r.seed) in tried]
    scores = aggregate(same)

    def by_k(method: str, split: str, search: str) -> dict[int, Score]:
        mine = [s for s in scores if (s.method, s.split) == (method, split) and s.search in ("sample", search)]
        return {s.width or 1: s for s in mine}

    greedy = {(s.method, s.split): s for s in scores if s.search == "greedy"}
    places = dict.fromkeys((s.method, split) for split in splits for s in scores if s.split == split)
    return [
        Replies(m, legend.label(m), split, by_k(m, split, "best-of"), by_k(m, split, "random"), greedy.get((m, split)))
        for m, split in places
    ]


def replies_table(rows: Sequence[AccuracyRow], splits: Sequence[str], legend: Legend) -> str:
    """K replies a turn as Markdown, a row for each way to choose, with the tokens that the policy wrote and the value
    model read for one conversation at the largest K; beside them the likeliest reply, where that was played."""
    policies = replies(rows, splits, legend)
    widths = sorted({1} | {k for p in policies for k in p.by_value})
    decoded = any(policy.greedy for policy in policies)
    lines = []
    for policy in policies:
        for how, found in (("by value", policy.by_value), ("at random", policy.at_random)):
            cells = [found[k].percent if k in found else MISSING for k in widths]
            likeliest = [policy.greedy.percent if policy.greedy else MISSING] if decoded else []
            lines.append([f"{policy.name}, {how}", *likeliest, *cells, _tokens(found.get(widths[-1]))])
    columns = [*(["greedy"] if decoded else []), *(f"K = {k}" for k in widths)]
    return table(["policy", *columns, f"tokens written / read, K = {widths[-1]}"], lines)


def temperatures_table(rows: Sequence[AccuracyRow], splits: Sequence[str], legend: Legend) -> str:
    """The most valued of K replies as Markdown, a row for each policy, split and temperature at which they were drawn;
    a row of a result file that tells none is of temperature 1."""
    by_temperature: dict[float, list[AccuracyRow]] = {}
    for row in rows:
        by_temperature.setdefault(1.0 if row.temperature is None else row.temperature, []).append(row)
    found = [(policy, t) for t, of in sorted(by_temperature.items()) for policy in replies(of, splits, legend)]
    widths = sorted({k for policy, _ in found for k in policy.by_value})
    lines = []
    for policy, t in sorted(found, key=lambda one: one[0].name):
        cells = [policy.by_value[k].percent if k in policy.by_value else MISSING for k in widths]
        lines.append([policy.name, f"{t:g}", *cells])
    return table(["policy", "temperature", *(f"K = {k}" for k in widths)], lines)


def _tokens(score: Score | None) -> str:
    if score is None or score.tokens_generated is None or score.tokens_scored is None:
        return MISSING
    return f"{score.tokens_generated:.0f} / {score.tokens_scored:.0f}"


def replies_svg(rows: Sequence[AccuracyRow], splits: Sequence[str], legend: Legend, name: str = "replies") -> str:
    """Success over K, a panel for each policy and split, as an SVG; the bars are standard errors.

    They are over seeds where there are several, otherwise over games.
    """
    policies = replies(rows, splits, legend)
    drawn = [s for p in policies for s in (*p.by_value.values(), *p.at_random.values(), p.greedy) if s]
    most = max(100 * (score.accuracy + score.spread) for score in drawn)
    with figure_style(name):
        figure = Figure(figsize=(max(5.0, 3.4 * len(policies)), 3.2), layout="constrained")
        for number, policy in enumerate(policies, 1):
            axes = figure.add_subplot(1, len(policies), number)
            axes.set_title(policy.name, fontsize=11)
            axes.set_xlabel("K replies a turn")
            axes.set_ylabel("games won, %" if number == 1 else "")
            axes.set_xticks(sorted(policy.by_value))
            axes.set_ylim(0, min(100.0, 1.1 * most))
            axes.grid(visible=True)
            for label, found, colour, style in (
                ("the most valued", policy.by_value, legend.colour("oreo"), "o-"),
                ("any of them", policy.at_random, INK, "x--"),
            ):
                line = [found[k] for k in sorted(found)]
                heights, errors = [100 * s.accuracy for s in line], [100 * s.spread for s in line]
                axes.errorbar(sorted(found), heights, errors, fmt=style, color=colour, elinewidth=0.8, label=label)
            if policy.greedy:
                axes.axhline(
                    100 * policy.greedy.accuracy, color=INK, linestyle=":", linewidth=1, label="greedy, one reply"
                )
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
        return drawn_svg(figure, name)
