"""`stepcredit evaluate`: score a policy."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from stepcredit.commands.console import quiet
from stepcredit.parsing import parse
from stepcredit.report.groups import group_tables, samples_table
from stepcredit.report.tables import results_table, value_table
from stepcredit.results.store import read_rows


def run(arguments: list[str]) -> int:
    """Evaluate, and show the tables."""
    quiet()
    from stepcredit.evaluation.evaluate import EvaluateConfig, evaluate

    (config,) = parse("evaluate", [EvaluateConfig], arguments)
    console = Console()
    rows, groups = evaluate(config)
    console.print(results_table(rows))
    for table in [samples_table(rows[0]), *group_tables(groups)]:
        if table is not None:
            console.print(table)
    console.print(f"Every response: {Path(config.output_dir) / 'responses'}", soft_wrap=True)
    if config.value_model is not None and config.search in ("greedy", "sample"):
        console.print(value_table(read_rows(Path(config.output_dir) / "value.json")))
    if config.search == "all" and (Path(config.output_dir) / "cost.svg").exists():
        console.print(f"Accuracy against tokens: {Path(config.output_dir) / 'cost.svg'}", soft_wrap=True)
    if config.trace is not None:
        console.print(f"The tree: {config.trace}", soft_wrap=True)
    return 0
