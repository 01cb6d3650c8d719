"""`stepcredit compare`: compares methods on the same episodes."""

from __future__ import annotations

from pathlib import Path

from stepcredit.commands.console import counted, quiet, show_results
from stepcredit.parsing import parse


def run(arguments: list[str]) -> int:
    """Runs the unfinished runs and prints the table of results."""
    quiet()
    from stepcredit.experiments.compare import CompareConfig, compare

    (config,) = parse("compare", [CompareConfig], arguments)
    counts = compare(config)
    print(counted(counts))
    if not config.dry_run:
        show_results(Path(config.output_dir)).print(
            f"Look at it: {Path(config.output_dir) / 'report.html'}", soft_wrap=True
        )
    return 0
