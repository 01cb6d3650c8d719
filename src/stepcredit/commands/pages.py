"""`stepcredit report` and `stepcredit view`: pages of what a folder holds, as a file and live."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from stepcredit.parsing import parse
from stepcredit.report.page import write_report
from stepcredit.report.view.view_server import HOST, view_server
from stepcredit.settings import Limits, Settings


@dataclass
class ReportConfig(Settings):
    """Write report.html, one self-contained page, from the result files of a folder (results.json and others)."""

    folder: Annotated[str, Limits(not_empty=True)] = field(
        metadata={"help": "Folder with results.json.", "positional": True}
    )


@dataclass
class ViewConfig(Settings):
    """Show training curves, results and credit pages of a folder and the folders in it as one page in the browser, and
    refresh it while runs go on. For this machine only; interrupt to end."""

    folder: Annotated[str, Limits(not_empty=True)] = field(
        metadata={"help": "Folder, such as the --output_dir of a command.", "positional": True}
    )
    port: Annotated[int, Limits(at_least=0, at_most=65535)] = field(
        default=8420, metadata={"help": "Port of the page; 0: any free one."}
    )
    browser: bool = field(default=True, metadata={"help": "Open the page in the browser."})


def report(arguments: list[str]) -> int:
    """Writes the report and prints its path."""
    (config,) = parse("report", [ReportConfig], arguments)
    print(write_report(Path(config.folder)))
    return 0


def view(arguments: list[str]) -> int:
    """Serves the page until a signal ends it."""
    (config,) = parse("view", [ViewConfig], arguments)
    with view_server(Path(config.folder), config.port) as server:
        address = f"http://{HOST}:{server.server_address[1]}/"
        print(f"{config.folder}: {address} (interrupt to end)", flush=True)
        if config.browser:
            webbrowser.open(address)
        server.serve_forever()
    return 0
