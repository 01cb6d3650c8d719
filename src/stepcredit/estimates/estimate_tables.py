"""Terminal tables of an estimate."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from stepcredit.estimates.estimate import Estimate
from stepcredit.progress import duration
from stepcredit.report.formatting import printable
from stepcredit.report.tables import plain_table


def estimate_tables(found: Estimate) -> Group:
    """Renders an estimate: memory by part and by phase, time by part, and lines with the rest."""
    lines = [Text(printable(line)) for line in _lines(found)]
    return Group(_memory_table(found), "", _phase_table(found), "", _time_table(found), "", *lines)


def _memory_table(found: Estimate) -> Table:
    parts = sorted(found.memory.parts.items(), key=lambda part: -part[1])
    lines = [(name, _gigabytes(size)) for name, size in parts]
    return plain_table(
        ["memory"], ["GB"], [*lines, ("peak", _gigabytes(found.memory.peak))], f"Peak, in the {found.memory.at}"
    )


def _phase_table(found: Estimate) -> Table:
    lines = [(phase, _gigabytes(sum(parts.values()))) for phase, parts in found.memory.phases.items()]
    return plain_table(["phase"], ["GB"], lines)


def _time_table(found: Estimate) -> Table:
    compute = found.compute
    lines = [
        (name, f"{compute.flops[name] / 1e9:,.0f}" if name in compute.flops else "", _seconds(seconds))
        for name, seconds in compute.seconds.items()
    ]
    total = ("step", f"{sum(compute.flops.values()) / 1e9:,.0f}", _seconds(compute.step))
    return plain_table(["optimizer step"], ["GFLOP", "time"], [*lines, total])


def _lines(found: Estimate) -> list[str]:
    compute, memory = found.compute, found.memory
    lines = [
        f"{found.method} on {found.device.name}: {found.trained / 1e6:,.1f}M parameters trained, "
        f"{found.frozen / 1e6:,.1f}M frozen; {found.head} head",
        f"memory: {memory.peak / 1e9:,.1f} of {found.device.memory / 1e9:,.0f} GB",
        f"time: {duration(compute.epoch)} an epoch of {compute.steps_per_epoch:,} steps, "
        f"{compute.tokens_per_second:,.0f} tokens/s; {duration(compute.run)} for {compute.steps:,} steps",
    ]
    disk = found.disk
    lines.append(
        f"disk: {_gigabytes(disk.run)} GB: {disk.checkpoints} checkpoints of {_gigabytes(disk.checkpoint)} GB "
        f"(--save_total_limit 1 keeps one), and the models, {_gigabytes(disk.models)} GB"
        if disk.checkpoints > 1
        else f"disk: {_gigabytes(disk.run)} GB, of which {_gigabytes(disk.models)} GB for the models"
    )
    lines.append(f"encoded episodes: {_gigabytes(disk.encoded)} GB a process, in a temporary file (TMPDIR)")
    if compute.break_even is not None:
        lines.append(
            f"precomputing: {duration(compute.precomputing)}, {found.disk.kept / 1e9:,.2f} GB on disk; "
            f"pays after {compute.break_even:.1f} epochs"
        )
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f}"


def _seconds(seconds: float) -> str:
    if seconds >= 10:
        return duration(seconds)
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.2g} ms"
