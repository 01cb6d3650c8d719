"""`stepcredit evaluate`: evaluates a policy."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from stepcredit.commands.console import quiet
from stepcredit.parsing import parse
from stepcredit.report.legend import Legend
from stepcredit.report.tables import group_tables, not_right, results_table, samples_table, value_table
from stepcredit.results.row_files import read_rows
from stepcredit.results.schema import ValueRow


def run(arguments: list[str]) -> int:
    """Evaluates and prints the tables of results."""
    quiet()
    from stepcredit.evaluation.evaluate import EvaluateConfig, evaluate

    (config,) = parse("evaluate", [EvaluateConfig], arguments)
    console = Console()
    rows, groups = evaluate(config)
    out = Path(config.output_dir)
    console.print(results_table(rows, Legend.of(out)))
    if left := not_right(rows):
        console.print(left, soft_wrap=True)
    for table in [samples_table(rows[0]), *group_tables(groups)]:
        if table is not None:
            console.print(table)
    console.print(f"Every response: {out / 'responses'}", soft_wrap=True)
    if config.value_model is not None and config.search in ("greedy", "sample"):
        console.print(value_table(read_rows(out / "value.json", ValueRow), Legend.of(out)))
    if config.search == "all" and (out / "cost.svg").exists():
        console.print(f"Accuracy against tokens: {out / 'cost.svg'}", soft_wrap=True)
    if config.trace is not None:
        console.print(f"The tree: {config.trace}", soft_wrap=True)
    return 0
