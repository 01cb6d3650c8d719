"""Labels and colors of methods: as recorded with the results, otherwise names and a palette."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from stepcredit.report.formatting import printable
from stepcredit.results.row_files import read_object

PALETTE = (
    *("#2476c4", "#e07418", "#239b76", "#8a6bc9", "#cf4f3e", "#c45c9c", "#858c96"),
    *("#b08900", "#1f9aa0", "#d1608a", "#7c8f2e", "#9c6644", "#6c6fd1"),
)


class Legend:
    """Labels and colors of methods. A method without a recorded color gets the next one of the palette.

    Args:
        methods: name → `{"label": …, "color": "#rrggbb"}`; anything else is ignored.
    """

    def __init__(self, methods: object = None) -> None:
        recorded = methods if isinstance(methods, Mapping) else {}
        self._methods = {name: look for name, look in recorded.items() if isinstance(look, Mapping)}
        self._assigned: dict[str, str] = {}

    @classmethod
    def of(cls, folder: Path) -> Legend:
        """Reads the legend from the `run.json` of a folder.

        Raises:
            InputError: the file is not a JSON object.
        """
        return cls(read_object(folder / "run.json").get("methods"))

    def label(self, method: str) -> str:
        """Returns the label of a method."""
        label = self._methods.get(method, {}).get("label")
        return printable(label if isinstance(label, str) else method)

    def colour(self, method: str) -> str:
        """Returns the color of a method, the same one at every call."""
        if method not in self._assigned:
            recorded = self._methods.get(method, {}).get("color")
            used = self._assigned.values()
            free = [c for c in PALETTE if c not in used] or PALETTE[len(used) % len(PALETTE) :]
            valid = isinstance(recorded, str) and re.fullmatch("#[0-9a-fA-F]{6}", recorded)
            self._assigned[method] = str(recorded) if valid else free[0]
        return self._assigned[method]
