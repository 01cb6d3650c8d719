"""`stepcredit quickstart`: the whole pipeline on an embedded task."""

from __future__ import annotations

from pathlib import Path

from stepcredit.commands.console import quiet, show_results
from stepcredit.parsing import parse
from stepcredit.report.legend import Legend
from stepcredit.report.tables import value_table
from stepcredit.results.row_files import read_rows
from stepcredit.results.schema import ValueRow


def run(arguments: list[str]) -> int:
    """Runs the pipeline and prints the tables of results."""
    quiet()
    from stepcredit.experiments.quickstart import QuickstartConfig, quickstart

    (config,) = parse("quickstart", [QuickstartConfig], arguments)
    report = quickstart(config)
    console = show_results(Path(config.output_dir))
    console.print(value_table(read_rows(Path(config.output_dir) / "value.json", ValueRow), Legend.of(report.parent)))
    console.print(f"Look at it: {report}", soft_wrap=True)
    return 0
