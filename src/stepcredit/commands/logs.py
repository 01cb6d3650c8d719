"""`stepcredit import` and `stepcredit grade`: logs of scored responses → episodes; responses → verdicts and rewards."""

from __future__ import annotations

from stepcredit.logs.grade_logs import GradeConfig, grade_rows
from stepcredit.logs.import_logs import ImportConfig, import_logs
from stepcredit.parsing import parse


def import_(arguments: list[str]) -> int:
    """Imports logs and prints a summary."""
    (config,) = parse("import", [ImportConfig], arguments)
    print(import_logs(config).summary())
    return 0


def grade(arguments: list[str]) -> int:
    """Grades rows and prints a summary."""
    (config,) = parse("grade", [GradeConfig], arguments)
    print(grade_rows(config).summary())
    return 0
