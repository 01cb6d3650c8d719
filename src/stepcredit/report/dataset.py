"""Terminal tables of the summary of a set of episodes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stepcredit.metrics.dataset import Distribution, Summary
from stepcredit.report.formatting import legible, printable

_BAR = 20


def dataset_tables(summary: Summary) -> Group:
    """Renders a summary as terminal tables."""
    return Group(_outcome_table(summary), _success_table(summary), _length_table(summary), *_remarks(summary))


def preview_panels(previews: Sequence[tuple[str, str]]) -> Group:
    """Renders each (title, text) as a panel."""
    return Group(
        *(Panel(Text(legible(text)), title=Text(printable(title)), title_align="left") for title, text in previews)
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for k, name in enumerate(columns):
        table.add_column(name, justify="right" if k else "left")
    return table


def _outcome_table(summary: Summary) -> Table:
    table = _table("Episodes", "", "number", "share")
    table.add_row("episodes", f"{summary.episodes:,}", "")
    table.add_row("prompts", f"{summary.prompts:,}", "")
    for name in ("right", "wrong", "undecided", "truncated"):
        share = getattr(summary, name)
        table.add_row(name, f"{round(share * summary.episodes):,}", f"{share:.1%}")
    table.add_row("duplicates (same prompt and response)", *_part(summary.duplicates, summary.episodes))
    table.add_row("with the sampled ids", *_part(round(summary.own_ids * summary.episodes), summary.episodes))
    turns = round(summary.multi_turn * summary.episodes)
    table.add_row("multi-turn", *_part(turns, summary.episodes))
    if summary.reward_mean is not None:
        error = "" if summary.reward_stderr is None else f" ± {summary.reward_stderr:.4f}"
        table.add_row("mean reward ± standard error", f"{summary.reward_mean:.4f}{error}", "")
    return table


def _part(number: int, whole: int) -> tuple[str, str]:
    return f"{number:,}", f"{number / whole:.1%}"


def _success_table(summary: Summary) -> Table:
    table = _table("Prompts by their share of right responses", "", "prompts", "share")
    table.add_column("", justify="left")
    highest = max(summary.success.values()) or 1
    for name, number in summary.success.items():
        table.add_row(name, *_part(number, summary.prompts), "█" * round(_BAR * number / highest))
    table.add_row("no right or wrong response", *_part(summary.prompts_without_outcome, summary.prompts), "")
    table.add_section()
    for name, number in (
        ("no training signal: all right", summary.prompts_all_right),
        ("no training signal: all wrong", summary.prompts_all_wrong),
        ("no training signal: a single response", summary.prompts_single),
        ("no training signal: no reward", summary.prompts_undecided),
    ):
        table.add_row(name, *_part(number, summary.prompts), "")
    return table


def _length_table(summary: Summary) -> Table:
    table = _table("Lengths", "", "mean", "median", "95%", "longest")
    rows: list[tuple[str, Distribution | None]] = [
        ("responses per prompt", summary.responses_per_prompt),
        ("prompt, characters", summary.prompt_characters),
        ("response, characters", summary.completion_characters),
        ("response, tokens", summary.completion_tokens),
        ("prompt and response, tokens", summary.total_tokens),
        ("steps per response", summary.steps),
    ]
    for name, numbers in rows:
        if numbers is not None:
            cells = (f"{n:,.1f}" for n in (numbers.mean, numbers.median, numbers.p95))
            table.add_row(name, *cells, f"{numbers.max:,.0f}")
    return table


def _remarks(summary: Summary) -> list[Text]:
    remarks = []
    if summary.graded:
        remarks.append(
            f"{summary.graded:,} rewards are neither 0 nor 1; right is a reward of at least "
            f"{summary.reward_threshold:g} (--reward_threshold of inspect, credit and train)."
        )
    if summary.prompt_id_clashes:
        remarks.append(f"{summary.prompt_id_clashes:,} prompt ids belong to more than one prompt; fix prompt_id.")
    if summary.drawn is not None:
        found = ", ".join(f"{number:,} {name}" for name, number in summary.drawn.items())
        share = summary.drawn.get("right", 0) / max(1, sum(summary.drawn.values()))
        remarks.append(
            f"Balanced: the kept ones of {found} responses, {share:.1%} right; shares above are of those kept."
        )
    if summary.untokenised:
        remarks.append(f"{summary.untokenised:,} responses do not survive a round trip through this tokenizer.")
    if summary.total_tokens is None:
        remarks.append("No ids are stored; pass --tokenizer to count tokens.")
    return [Text(remark) for remark in remarks]
