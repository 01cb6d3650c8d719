"""Grid of independent runs in worker processes; each writes its own folder and is reused once finished."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError
from stepcredit.files import changed_settings, read_manifest, remove_leftovers, write_json
from stepcredit.processes import worker_pool
from stepcredit.progress import hide, track

RESULT = "result.json"


@dataclass(frozen=True)
class Run:
    """One run of a grid.

    Attributes:
        folder: output folder; the run is finished once it contains `result.json`.
        work: top-level function of (folder, **settings) that returns a JSON-serialisable result.
        settings: its arguments, JSON-serialisable; a run finished with other settings is refused, not reused.
        paths: further arguments, which may be others when a run is reused: where its inputs are.
        inputs: what is at those paths, by hash; a run finished with other inputs is refused.
    """

    folder: Path
    work: Callable[..., dict[str, Any]]
    settings: dict[str, Any]
    paths: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str | None] = field(default_factory=dict)

    def finished(self) -> bool:
        """Whether the run has a result.

        Raises:
            InputError: it was finished with other settings or inputs.
        """
        if not (self.folder / RESULT).exists():
            return False
        kept = self._read()
        changed = changed_settings(kept["settings"], self.settings)
        changed += changed_settings(kept.get("inputs", self.inputs), self.inputs)
        if changed:
            raise InputError(
                f"was made with another {', '.join(changed)}; choose another --output_dir", str(self.folder)
            )
        return True

    def result(self) -> dict[str, Any]:
        """Returns the result of a finished run."""
        result: dict[str, Any] = self._read()["result"]
        return result

    def seconds(self) -> float:
        """Returns the duration of a finished run."""
        return float(self._read()["seconds"])

    def _read(self) -> dict[str, Any]:
        return read_manifest(self.folder / RESULT, ("settings", "result", "seconds"))


def run_grid(runs: Sequence[Run], label: str, jobs: int, threads: int) -> list[dict[str, Any]]:
    """Runs all unfinished runs; returns all results, in order.

    Args:
        runs: independent runs.
        label: label of the progress bar, which counts runs.
        jobs: number of worker processes; 1 runs everything in this process.
        threads: CPU threads per run.

    Raises:
        InputError: some runs failed; the others have finished and will be reused.
    """
    todo = [run for run in runs if not run.finished()]
    failed: list[tuple[Run, BaseException]] = []
    if jobs == 1:
        for run in track(todo, label, len(todo), "runs"):
            _do(run, threads)
    else:
        with worker_pool(jobs, hide) as pool:
            running = {pool.submit(_do, run, threads): run for run in todo}
            for future in track(as_completed(running), label, len(todo), "runs"):
                error = future.exception()
                if error is not None:
                    failed.append((running[future], error))
    if failed:
        names = "; ".join(f"{run.folder.name}: {_in_words(error)[:200]}" for run, error in failed)
        raise InputError(f"{len(failed)} of {len(runs)} runs failed; run the command again to retry them: {names}")
    return [run.result() for run in runs]


def _in_words(error: BaseException) -> str:
    """Returns an error as one line; one that is not about the input is named by its type, as it may have no text."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _do(run: Run, threads: int) -> None:
    import torch
    from accelerate.utils.memory import clear_device_cache

    torch.set_num_threads(threads)
    remove_leftovers(run.folder)
    start = time.perf_counter()
    try:
        result = run.work(run.folder, **run.settings, **run.paths)
    except BaseException:
        if not any(run.folder.rglob("checkpoint-*")):  # from which the next attempt resumes
            shutil.rmtree(run.folder, ignore_errors=True)
        with suppress(OSError):  # other runs stand beside it
            run.folder.parent.rmdir()
        raise
    clear_device_cache(garbage_collection=True)  # for the runs beside this one
    seconds = round(time.perf_counter() - start, 2)
    about = {"settings": run.settings, "inputs": run.inputs}
    write_json(run.folder / RESULT, {**about, "result": result, "seconds": seconds})
