"""`stepcredit reproduce`: runs a recipe from pretrained weights to the table of results."""

from __future__ import annotations

from pathlib import Path

from stepcredit.commands.console import quiet, show_results
from stepcredit.parsing import parse


def run(arguments: list[str]) -> int:
    """Runs the unfinished steps and prints the table of results."""
    quiet()
    from stepcredit.experiments.reproduce import ReproduceConfig, reproduce

    (config,) = parse("reproduce", [ReproduceConfig], arguments)
    counts = reproduce(config)
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    if not config.dry_run:
        show_results(Path(config.output_dir)).print(
            f"Look at it: {Path(config.output_dir) / 'report.html'}", soft_wrap=True
        )
    return 0
