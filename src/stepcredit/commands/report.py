"""`stepcredit report`: result files → one page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from stepcredit.parsing import parse
from stepcredit.report.page import write_report
from stepcredit.settings import Limits, Settings


@dataclass
class ReportConfig(Settings):
    """Make report.html, one self-contained page, of a folder's result files (results.json and its like)."""

    folder: Annotated[str, Limits(not_empty=True)] = field(
        metadata={"help": "The folder that holds results.json.", "positional": True}
    )


def run(arguments: list[str]) -> int:
    """Write the page, and say where it is."""
    (config,) = parse("report", [ReportConfig], arguments)
    print(write_report(Path(config.folder)))
    return 0
