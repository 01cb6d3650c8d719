"""Seconds and bytes of a run: repeats in alternation, the highest memory of a block, processes of their own.

On a CPU memory is the resident memory of the process (`/proc/self/status`), whose high-water mark can be reset on
Linux, so that loading a model does not count towards the step after it; elsewhere it is the highest since the process
began. On a GPU it is what PyTorch has allocated.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

CHECKOUT = Path(__file__).resolve().parent.parent
STATUS = Path("/proc/self/status")
RESET_PEAK = Path("/proc/self/clear_refs")
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory")
PACKAGES = ("stepcredit", "torch", "transformers", "trl", "liger-kernel", "peft")


@dataclass
class Memory:
    """Memory of a block in bytes: held before it, and the highest during it."""

    before: int
    top: int = 0

    @property
    def above(self) -> int:
        """The highest memory of the block beyond what was held before."""
        return self.top - self.before


class Failed(Exception):
    """A measurement that cannot be made on this machine, with the reason in one line."""


def resident() -> int:
    """Returns the resident memory of this process in bytes."""
    return _status("VmRSS") or _highest_resident()


def synchronize(device: str) -> None:
    """Waits for the work of a GPU; nothing to wait for on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def memory(device: str) -> Iterator[Memory]:
    """Records the memory of a block on a device."""
    gc.collect()
    if device == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats()
        held = Memory(torch.cuda.memory_allocated())
        yield held
        synchronize(device)
        held.top = torch.cuda.max_memory_allocated()
        return
    return_free_pages()
    with suppress(OSError):
        RESET_PEAK.write_text("5")
    held = Memory(resident())
    yield held
    held.top = _status("VmHWM") or _highest_resident()


def return_free_pages() -> None:
    """Returns the memory that glibc keeps for later allocations to the system; nothing happens elsewhere."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(name: str) -> int | None:
    """Returns an entry of `/proc/self/status` in bytes; None where there is no such file."""
    if not STATUS.exists():
        return None
    (entry,) = (line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(entry)


def _highest_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def alternated(runs: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Returns the seconds of each run, repeated in alternation (A B A B), so that a drift of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def in_own_process(module: str, *arguments: object) -> dict[str, Any]:
    """Runs `python -m module arguments` and returns the JSON object on its last line.

    Raises:
        Failed: the run does not fit into memory, or says why it cannot be made (`{"failed": reason}`).
        RuntimeError: it ended with an error.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    ran = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if ran.returncode == -9 or (ran.returncode and any(sign in ran.stderr for sign in OUT_OF_MEMORY)):
        raise Failed("does not fit into memory")
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    if "failed" in found:
        raise Failed(found["failed"])
    return found


def median(numbers: Sequence[float]) -> float:
    """Returns the median."""
    return float(statistics.median(numbers))


def ratio(baseline: float | None, ours: float | None) -> float | None:
    """Returns baseline over ours, so that more is better; None where one of them was not measured or is zero."""
    return None if not baseline or not ours else baseline / ours


def skipped(failed: Mapping[str, str], *schemes: str | None) -> dict[str, str]:
    """Returns the column `skipped` of a row: why one of its schemes could not be measured; no column if all could."""
    reasons = dict.fromkeys(failed[scheme] for scheme in schemes if scheme in failed)
    return {"skipped": "; ".join(reasons)} if reasons else {}


def machine(device: str) -> dict[str, Any]:
    """Returns the columns of every row that say where it was measured: device, machine, threads and versions."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {os.cpu_count()} cores"
    return {
        "device": device,
        "machine": name,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **found},
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
