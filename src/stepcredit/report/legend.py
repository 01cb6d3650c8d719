"""Labels and colours of methods: those that were recorded with the results, otherwise names and a palette."""

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
    """How methods are called and drawn. A method without a recorded colour gets the next one of the palette.

    Args:
        methods: by name, `{"label": …, "color": "#rrggbb"}`; whatever else it holds is left out.
    """

    def __init__(self, methods: object = None) -> None:
        known = methods if isinstance(methods, Mapping) else {}
        self._methods = {name: look for name, look in known.items() if isinstance(look, Mapping)}
        self._drawn: dict[str, str] = {}

    @classmethod
    def of(cls, folder: Path) -> Legend:
        """What the `run.json` of a folder records.

        Raises:
            InputError: it is no JSON object.
        """
        return cls(read_object(folder / "run.json").get("methods"))

    def label(self, method: str) -> str:
        """The method in words."""
        label = self._methods.get(method, {}).get("label")
        return printable(label if isinstance(label, str) else method)

    def colour(self, method: str) -> str:
        """The method's colour, always the same one."""
        if method not in self._drawn:
            recorded = self._methods.get(method, {}).get("color")
            spare = [c for c in PALETTE if c not in self._drawn.values()] or PALETTE[len(self._drawn) % len(PALETTE) :]
            fits = isinstance(recorded, str) and re.fullmatch("#[0-9a-fA-F]{6}", recorded)
            self._drawn[method] = str(recorded) if fits else spare[0]
        return self._drawn[method]
