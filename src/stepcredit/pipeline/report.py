"""The settings of `stepcredit report`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReportConfig:
    """Make report.html, one self-contained page, of a folder's result files (results.json and its like)."""

    folder: str = field(metadata={"help": "The folder that holds results.json.", "positional": True})
