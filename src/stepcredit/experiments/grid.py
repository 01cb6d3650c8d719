"""Cells of a grid: small pieces of work, each written whole into a folder of its own, run in worker processes."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError
from stepcredit.files import write_json
from stepcredit.progress import hide, track

RESULT = "cell.json"


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        folder: where it writes; finished when `cell.json` is there.
        work: a function of (folder, **given) at the top level of a module; returns what `cell.json` is to hold.
        given: its arguments, JSON-serialisable: a cell that was finished with others is refused, not reused.
    """

    folder: Path
    work: Callable[..., dict[str, Any]]
    given: dict[str, Any]

    def finished(self) -> bool:
        """Whether its result is there.

        Raises:
            InputError: it is there, made with other settings.
        """
        path = self.folder / RESULT
        if not path.exists():
            return False
        found = json.loads(path.read_text(encoding="utf-8"))["given"]
        asked = json.loads(json.dumps(self.given))
        changed = sorted(k for k in {*found, *asked} if found.get(k) != asked.get(k))
        if changed:
            raise InputError(
                f"was made with another {', '.join(changed)}; choose another --output_dir", str(self.folder)
            )
        return True

    def result(self) -> dict[str, Any]:
        """What it found."""
        result: dict[str, Any] = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))["result"]
        return result

    def seconds(self) -> float:
        """How long it took."""
        return float(json.loads((self.folder / RESULT).read_text(encoding="utf-8")).get("seconds", 0.0))


def run_cells(cells: Sequence[Cell], label: str, jobs: int, threads: int) -> list[dict[str, Any]]:
    """The results of all cells, in their order; finished ones are not run again.

    Args:
        cells: independent of each other.
        label: for the progress bar, which counts cells.
        jobs: how many run at a time, each in a process of its own; 1 runs them in this one.
        threads: CPU threads of each.

    Raises:
        InputError: cells failed; the others are finished all the same, and are not run again by the next call.
    """
    todo = [cell for cell in cells if not cell.finished()]
    failed = (_one_by_one if jobs == 1 else _side_by_side)(todo, label, jobs, threads)
    if failed:
        names = "; ".join(f"{cell.folder.name}: {' '.join(str(error).split())[:200]}" for cell, error in failed)
        raise InputError(f"{len(failed)} of {len(cells)} cells failed, run the command again to try them: {names}")
    return [cell.result() for cell in cells]


Failures = list[tuple[Cell, BaseException]]


def _one_by_one(cells: Sequence[Cell], label: str, jobs: int, threads: int) -> Failures:
    for cell in track(cells, label, len(cells), "cells"):
        _run(cell, threads)
    return []


def _side_by_side(cells: Sequence[Cell], label: str, jobs: int, threads: int) -> Failures:
    failed: Failures = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=hide) as pool:
        running = {pool.submit(_run, cell, threads): cell for cell in cells}
        for future in track(as_completed(running), label, len(cells), "cells"):
            error = future.exception()
            if error is not None:
                failed.append((running[future], error))
    return failed


def _run(cell: Cell, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    start = time.perf_counter()
    result = cell.work(cell.folder, **cell.given)
    seconds = round(time.perf_counter() - start, 2)
    write_json(cell.folder / RESULT, {"given": cell.given, "result": result, "seconds": seconds})
