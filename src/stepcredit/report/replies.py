"""What K replies a turn are worth: the most valued one beside any of them, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from stepcredit.report.figures import COLOURS, INK, drawn_svg, figure_style
from stepcredit.report.markdown import table
from stepcredit.report.rows import Row
from stepcredit.report.scores import Score, aggregate, method_label
from stepcredit.report.tables import MISSING, percent


@dataclass(frozen=True)
class Replies:
    """One policy on one split: its scores by K. K = 1 is sampling by the seeds that tried several.

    Attributes:
        method: which policy.
        split: which split.
        by_value: the reply said is the most valued of K.
        at_random: it is any of them.
    """

    method: str
    split: str
    by_value: dict[int, Score]
    at_random: dict[int, Score]

    @property
    def name(self) -> str:
        """For people."""
        return f"{method_label(self.method)}, {self.split}"


def replies(rows: Sequence[Row], splits: Sequence[str]) -> list[Replies]:
    """Every policy and split that was tried with several replies."""
    tried = {(r["method"], r["split"], r["seed"]) for r in rows if r["search"] == "best-of"}
    same = [r for r in rows if (r["method"], r["split"], r["seed"]) in tried]
    scores = aggregate(same)

    def by_k(method: str, split: str, search: str) -> dict[int, Score]:
        mine = [s for s in scores if (s.method, s.split) == (method, split) and s.search in ("sample", search)]
        return {s.width or 1: s for s in mine}

    places = dict.fromkeys((s.method, split) for split in splits for s in scores if s.split == split)
    return [Replies(m, split, by_k(m, split, "best-of"), by_k(m, split, "random")) for m, split in places]


def replies_table(rows: Sequence[Row], splits: Sequence[str]) -> str:
    """K replies a turn as Markdown, a row for each way to choose, with the tokens that the policy wrote and the value
    model read for one conversation at the largest K."""
    policies = replies(rows, splits)
    widths = sorted({1} | {k for p in policies for k in p.by_value})
    lines = []
    for policy in policies:
        for how, found in (("by value", policy.by_value), ("at random", policy.at_random)):
            cells = [percent(found[k]) if k in found else MISSING for k in widths]
            lines.append([f"{policy.name}, {how}", *cells, _tokens(found.get(widths[-1]))])
    return table(["policy", *(f"K = {k}" for k in widths), f"tokens written / read, K = {widths[-1]}"], lines)


def _tokens(score: Score | None) -> str:
    if score is None or score.tokens_generated is None or score.tokens_scored is None:
        return MISSING
    return f"{score.tokens_generated:.0f} / {score.tokens_scored:.0f}"


def replies_svg(rows: Sequence[Row], splits: Sequence[str], name: str = "replies") -> str:
    """Success over K, a panel for each policy and split, as an SVG; the bars are standard errors.

    They are over seeds where there are several, otherwise over games.
    """
    policies = replies(rows, splits)
    most = max(100 * (s.accuracy + s.spread) for p in policies for s in (*p.by_value.values(), *p.at_random.values()))
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
                ("the most valued", policy.by_value, COLOURS["oreo"], "o-"),
                ("any of them", policy.at_random, INK, "x--"),
            ):
                line = [found[k] for k in sorted(found)]
                heights, errors = [100 * s.accuracy for s in line], [100 * s.spread for s in line]
                axes.errorbar(sorted(found), heights, errors, fmt=style, color=colour, elinewidth=0.8, label=label)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
        return drawn_svg(figure, name)
