"""`stepcredit credit`: shows where responses go wrong."""

from __future__ import annotations

from pathlib import Path

from stepcredit.commands.console import quiet
from stepcredit.parsing import parse
from stepcredit.report.credit.credit_page import write_credit_page


def run(arguments: list[str]) -> int:
    """Writes `credit.jsonl` and the page, and prints where it is."""
    quiet()
    from stepcredit.evaluation.credit_file import CreditConfig, write_credit

    (config,) = parse("credit", [CreditConfig], arguments)
    counts = write_credit(config)
    page = write_credit_page(Path(config.output_dir))
    if counts.refused:
        print(f"{len(counts.refused)} responses cannot be encoded; the first: {counts.refused[0]}")
    print(f"{page}: {counts.shown} responses; open it in a browser")
    return 0
