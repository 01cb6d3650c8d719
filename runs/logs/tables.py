"""The tables of docs/reliability.md from the measurements of `runs/logs/run.py`."""

from __future__ import annotations

from typing import Any

WHAT = {"import": "`import`", "inspect": "`inspect`", "read": "all episodes, one after another",
        "train": "encoding and an epoch of micro-batches", "grade": "`grade`"}  # fmt: skip


def tables(found: dict[str, Any]) -> str:
    """Both tables, in Markdown."""
    rows = {tuple(name.split()): result for name, result in found["rows"].items()}
    sizes = sorted({int(size) for _, size, _ in rows})
    lines = _header(["what", "responses a prompt", *(f"MB, {size:,} rows" for size in sizes),
                     *(f"CPU s, {size:,} rows" for size in sizes), "input, MB per CPU s"], 1)  # fmt: skip
    for name, words in WHAT.items():
        for samples in ("16", "1"):
            of = {size: rows[name, str(size), samples] for size in sizes if (name, str(size), samples) in rows}
            if of:
                largest = of[max(of)]
                cells = [words, samples, *(f"{of[s]['memory']:.0f}" if s in of else "–" for s in sizes)]
                cells += [f"{of[s]['cpu']:.1f}" if s in of else "–" for s in sizes]
                lines.append(_line([*cells, f"{largest['input'] / largest['cpu']:.1f}"]))
    stages = [*_header(["stage", "CPU µs a row"], 1), *(_line([k, f"{v:.1f}"]) for k, v in found["stages"].items())]
    return "\n".join([*lines, "", *stages, ""])


def _header(names: list[str], words: int) -> list[str]:
    return [_line(names), _line(["---"] * words + ["---:"] * (len(names) - words))]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
