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
    """Write report.html, one self-contained page, from the result files of a folder (results.json and others)."""

    folder: Annotated[str, Limits(not_empty=True)] = field(
        metadata={"help": "Folder with results.json.", "positional": True}
    )


def run(arguments: list[str]) -> int:
    """Writes the report and prints its path."""
    (config,) = parse("report", [ReportConfig], arguments)
    print(write_report(Path(config.folder)))
    return 0
