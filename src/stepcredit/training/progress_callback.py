"""Progress display of a `transformers.Trainer`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from stepcredit.progress import Meter
from stepcredit.training.curve_file import CurveFile


class TrainingProgress(TrainerCallback):
    """Shows steps, the latest loss and the token rate, in place of transformers' own printing."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._meter: Meter | None = None
        self._evaluation: Meter | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the display on the main process."""
        shown = bool(state.is_world_process_zero)
        self._meter = Meter(self.label, state.max_steps, "steps", done=state.global_step, shown=shown).__enter__()
        self._logged = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advances by one step; a step that will be logged is shown with its loss in `on_log`."""
        if self._meter is not None and not control.should_log:
            self._meter.advance(state.global_step - self._meter.count)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Shows the latest loss and the response tokens per second over all processes since the last log."""
        if self._meter is None or not logs:
            return
        loss = logs.get("loss", None if self._meter.note else logs.get("train_loss"))
        if loss is not None:
            now = time.monotonic()
            rate = logs.get("num_tokens", 0) / max(now - self._logged, 1e-9)
            self._meter.note = f"loss {loss:.4g}" + (f", {rate:,.0f} response tokens/s" if rate else "")
            self._logged = now
        self._meter.advance(state.global_step - self._meter.count)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Advances an evaluation by one batch."""
        if self._evaluation is None:
            shown = bool(state.is_world_process_zero)
            self._evaluation = Meter("evaluating", len(eval_dataloader), "batches", shown=shown).__enter__()
        self._evaluation.advance()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the display of an evaluation."""
        if self._evaluation is not None:
            self._evaluation.__exit__(None, None, None)
            self._evaluation = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the display."""
        if self._meter is not None:
            self._meter.__exit__(None, None, None)


def show_progress(trainer: Any, method: str) -> None:
    """Replaces the progress printing of a trainer by `TrainingProgress`, and writes its curve as it grows."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingProgress(method))
    trainer.add_callback(CurveFile(method, Path(trainer.args.output_dir)))
