"""Terminal output of commands: tables of results and counts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from stepcredit.report.legend import Legend
from stepcredit.report.tables import results_table
from stepcredit.results.row_files import read_rows
from stepcredit.results.schema import AccuracyRow


def quiet() -> None:
    """Disables the progress bars of transformers, and busy waiting of idle threads."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def counted(counts: Mapping[str, Any]) -> str:
    """Formats counts on one line."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def counts_of_training(counts: Mapping[str, int]) -> str:
    """Says what a training learns from, and what was left out."""
    said = [f"{counts['episodes']:,} episodes", f"{counts['action_tokens']:,} tokens of responses"]
    if "items" in counts:
        said.insert(1, f"{counts['items']:,} items")
    if counts["retokenised"]:
        said.append(f"ids of {counts['retokenised']:,} encoded from text")
    left = [f"{n:,} {name.partition('/')[2]}" for name, n in counts.items() if name.startswith("left_out/")]
    return ", ".join(said) + (f"; left out: {', '.join(left)}" if left else "; none left out")


def show_results(folder: Path) -> Console:
    """Prints the table of a folder's `results.json`; returns the console for further output."""
    console = Console()
    console.print(results_table(read_rows(folder / "results.json", AccuracyRow), Legend.of(folder)))
    return console
