"""`stepcredit import`: logs of scored responses → episodes."""

from __future__ import annotations

from stepcredit.logs.import_logs import ImportConfig, import_logs
from stepcredit.parsing import parse


def run(arguments: list[str]) -> int:
    """Imports logs and prints a summary."""
    (config,) = parse("import", [ImportConfig], arguments)
    print(import_logs(config).summary())
    return 0
