"""`stepcredit grade`: responses and gold answers → verdicts and rewards."""

from __future__ import annotations

from stepcredit.logs.grade_logs import GradeConfig, grade_rows
from stepcredit.parsing import parse


def run(arguments: list[str]) -> int:
    """Grades rows and prints a summary."""
    (config,) = parse("grade", [GradeConfig], arguments)
    print(grade_rows(config).summary())
    return 0
