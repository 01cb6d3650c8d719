"""`stepcredit compare`, `iterate` and `reproduce`: experiments of many runs, with a table of results at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepcredit.commands.console import counted, quiet, show_results
from stepcredit.parsing import parse


def compare(arguments: list[str]) -> int:
    """Compares methods on the same episodes: runs what is unfinished and prints the table of results."""
    quiet()
    from stepcredit.experiments.compare import CompareConfig, compare

    (config,) = parse("compare", [CompareConfig], arguments)
    return _shown(config, counted(compare(config)))


def iterate(arguments: list[str]) -> int:
    """Trains in rounds: runs what is unfinished and prints the table of results, or checks finished rounds."""
    quiet()
    from stepcredit.experiments.iteration.iterate import IterateConfig, iterate

    (config,) = parse("iterate", [IterateConfig], arguments)
    return _shown(config, ", ".join(f"{name}: {count}" for name, count in iterate(config).items()))


def reproduce(arguments: list[str]) -> int:
    """Runs the unfinished steps of a recipe and prints the table of results."""
    quiet()
    from stepcredit.experiments.reproduce import ReproduceConfig, reproduce

    (config,) = parse("reproduce", [ReproduceConfig], arguments)
    return _shown(config, ", ".join(f"{name}: {count}" for name, count in reproduce(config).items()))


def _shown(config: Any, counts: str) -> int:
    """Prints the counts of an experiment and, unless it was a dry run, its results."""
    print(counts)
    report = Path(config.output_dir) / "report.html"
    if not (config.dry_run or getattr(config, "verify", False)) and report.exists():
        show_results(Path(config.output_dir)).print(f"Look at it: {report}", soft_wrap=True)
    return 0
