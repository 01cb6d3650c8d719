"""Progress bars for long work: on a terminal a moving bar, elsewhere nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils import logging

Item = TypeVar("Item")

_is_worker = False


def hide() -> None:
    """No bars in this process from now on, ours or transformers': for workers, whose parent shows one."""
    global _is_worker
    _is_worker = True
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def track(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """`items`, with a bar on standard error where that is a terminal."""
    with _bar() as bar:
        yield from bar.track(items, total=total, description=label)


def _bar(*more: TextColumn, shown: bool = True) -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *more,
    )
    return Progress(
        *columns, console=console, disable=not (shown and console.is_terminal and not _is_worker), transient=True
    )


class TrainingBar(TrainerCallback):
    """A trainer's bar: steps done, with the latest loss. In place of transformers' own printing."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Shows the bar, on the main process and on a terminal."""
        self.bar = _bar(TextColumn("{task.fields[loss]}"), shown=bool(state.is_world_process_zero))
        self.task = self.bar.add_task(self.label, total=state.max_steps, completed=state.global_step, loss="")
        self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step further."""
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The latest loss."""
        if self.bar is not None and logs and "loss" in logs:
            self.bar.update(self.task, loss=f"loss {logs['loss']:.4g}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.stop()


def show_progress(trainer: Any, label: str) -> None:
    """Gives a trainer our bar in place of transformers' printing."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingBar(label))
