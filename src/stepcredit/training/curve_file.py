"""The training curve as a file, while training goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stepcredit.files import write_json

CURVES = "curves.json"
_PAUSE = 2.0
"""Seconds between two writes, at least."""
_TIMED = ("runtime", "per_second", "flos")


class CurveFile(TrainerCallback):
    """Writes the curve of a run as it grows, so that `stepcredit view` can follow it.

    Args:
        method: the method, for the file.
        folder: the output folder.
    """

    def __init__(self, method: str, folder: Path) -> None:
        self._method, self._folder, self._written = method, folder, float("-inf")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Has the last step of a run logged that is shorter than `logging_steps`; its curve would be empty."""
        if state.global_step >= state.max_steps and not curve(state.log_history):
            control.should_log = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the curve, unless it was written just now."""
        if state.is_world_process_zero and time.monotonic() - self._written >= _PAUSE:
            self._write(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the whole curve."""
        if state.is_world_process_zero:
            self._write(state)

    def _write(self, state: Any) -> None:
        write_json(self._folder / CURVES, {self._method: curve(state.log_history)})
        self._written = time.monotonic()


def curve(log_history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the logged metrics of a run in the order of a checkpoint, without timings, which differ from run to
    run."""
    rows = [
        {name: row[name] for name in sorted(row) if not any(word in name for word in _TIMED)} for row in log_history
    ]
    return [row for row in rows if "loss" in row or "eval_loss" in row]
