"""Result rows from objects written by hand, and a legend of three methods."""

from stepcredit.report.legend import Legend
from stepcredit.results.row_files import parsed
from stepcredit.results.schema import AccuracyRow, ValueRow

METHODS = {
    "oreo": {"label": "OREO", "color": "#2476c4"},
    "rft": {"label": "rejection sampling", "color": "#e07418"},
    "sft": {"label": "SFT", "color": "#858c96"},
}
LEGEND = Legend(METHODS)


def accuracies(rows):
    """Rows of `results.json`."""
    return [parsed(AccuracyRow, row, f"results.json, row {k}") for k, row in enumerate(rows, 1)]


def values(rows):
    """Rows of `value.json`."""
    return [parsed(ValueRow, row, f"value.json, row {k}") for k, row in enumerate(rows, 1)]
