"""What is in a folder, as one page: training curves, results and credit pages; the newest first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stepcredit.errors import InputError
from stepcredit.report.figures import curve_lines, curve_panels
from stepcredit.report.html import template
from stepcredit.report.legend import Legend
from stepcredit.report.page import headline
from stepcredit.report.scores import aggregate
from stepcredit.results.row_files import read_curves, read_rows
from stepcredit.results.schema import AccuracyRow

CURVES, RESULTS, CREDIT = "curves.json", "results.json", "credit.html"
MOST_CURVES = 12
"""Folders whose curves are drawn; the others are named."""
_PASSED = ("episodes", "policy", "value", "policy_adapter", "value_adapter", "responses")


@dataclass(frozen=True)
class Part:
    """A file that the page shows.

    Attributes:
        name: its folder, relative to the folder that is viewed; "." is that folder itself.
        file: the path.
        changed, size: time of its last change in nanoseconds, and its size.
        finished: whether the folder has a `run.json`, which commands write last.
    """

    name: str
    file: Path
    changed: int
    size: int
    finished: bool

    @property
    def when(self) -> str:
        """Time of the last change, local, to the second."""
        return f"{datetime.fromtimestamp(self.changed / 1e9):%Y-%m-%d %H:%M:%S}"


def parts_of(folder: Path) -> list[Part]:
    """Returns the files that the page shows, the last changed first. Episodes, models, checkpoints and hidden folders
    are passed over."""
    return sorted(_parts(folder), key=lambda part: (-part.changed, part.name))


def _parts(folder: Path) -> Iterator[Part]:
    for at, below, files in os.walk(folder):
        below[:] = [n for n in below if n not in _PASSED and not n.startswith((".", "checkpoint-"))]
        for file in {CURVES, RESULTS, CREDIT} & set(files):
            path = Path(at, file)
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # replaced at this moment: it is there at the next look
            name = path.parent.relative_to(folder).as_posix()
            yield Part(name, path, stat.st_mtime_ns, stat.st_size, "run.json" in files)


def version_of(parts: list[Part]) -> str:
    """Returns a text that changes when what the page shows does."""
    told = [(str(part.file), part.changed, part.size, part.finished) for part in parts]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def view_page(folder: Path) -> str:
    """Renders the page of a folder."""
    parts = parts_of(folder)
    training = [part for part in parts if part.file.name == CURVES]
    return template("view/view_page.html.j2", {}).render(
        folder=str(folder) if folder.name else folder.resolve().name or str(folder),
        version_of_parts=version_of(parts),
        training=[_training(part) for part in training[:MOST_CURVES]],
        others=training[MOST_CURVES:],
        results=[_results(part) for part in parts if part.file.name == RESULTS],
        credit=[part for part in parts if part.file.name == CREDIT],
    )


def _training(part: Part) -> dict[str, Any]:
    """Returns the curves of a folder; an error in their place if the file is damaged."""
    try:
        curves, legend = read_curves(part.file), Legend.of(part.file.parent)
        panels = [{"title": p.title, "svg": Markup(p.svg), "alt": p.alt} for p in curve_panels(curves, legend)]
    except InputError as error:
        return {"part": part, "error": str(error), "panels": [], "lines": [], "step": 0}
    step = max((int(point["step"]) for points in curves.values() for point in points), default=0)
    lines = list(curve_lines(curves, legend).values())
    return {"part": part, "error": None, "panels": panels, "lines": lines, "step": step}


def _results(part: Part) -> dict[str, Any]:
    """Returns the main results of a folder in sentences; an error in their place if its files are damaged."""
    try:
        scores = aggregate(read_rows(part.file, AccuracyRow), Legend.of(part.file.parent), str(part.file))
    except InputError as error:
        return {"part": part, "error": str(error), "sentences": []}
    tasks: dict[tuple[str, str], list[Any]] = {}
    for score in scores:
        tasks.setdefault((score.task, score.split), []).append(score)
    return {"part": part, "error": None, "sentences": [s for group in tasks.values() for s in headline(group)[:1]]}
