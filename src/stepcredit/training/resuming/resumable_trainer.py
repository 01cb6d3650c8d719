"""The part of the trainer that saves and resumes: whole checkpoints of one run, and one more at SIGTERM."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

from stepcredit.errors import InputError
from stepcredit.files import is_write_failure, read_manifest, why_not_written
from stepcredit.training.optimizer_step.totals import Totals
from stepcredit.training.resuming.checkpoints import WHOLE, check_checkpoint, last_checkpoint, mark_whole, readable
from stepcredit.training.resuming.run_identity import run_identity
from stepcredit.training.resuming.saving import SavingTrainer

STATE = "trainer_state.json"
_SINCE_LOG = "since_log_{}.pt"
_logger = logging.getLogger(__name__)


class ResumableTrainer(SavingTrainer):
    """A `transformers.Trainer` of an `ActorCritic` that can be killed at any moment, and goes on from its newest whole
    checkpoint to the weights, and the curve, of an undisturbed run.

    Attributes:
        asked_to_end: whether to save a checkpoint after the current step and then to end by SIGTERM.
    """

    _totals: Totals

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked_to_end = False
        self._resumed_from: str | None = None
        self.add_callback(_AroundSteps(self))

    # ---- resuming ---------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the run is (see `run_identity`); asked for first before anything is trained."""
        return run_identity(self.args, self.accelerator.unwrap_model(self.model), self.train_dataset)

    def checkpoint_for(self, resume: str | bool | None) -> str | None:
        """Returns the checkpoint to resume from: the given one, or for True the newest one of this run, if any.

        Raises:
            InputError: it is damaged, or of another run.
        """
        identity = self.identity  # before anything is trained
        if resume is True:
            self._resumed_from = last_checkpoint(self.args.output_dir, identity, self.last_step)
        else:
            self._resumed_from = resume or None
            if resume:
                check_checkpoint(resume, identity)
        return self._resumed_from

    @cached_property
    def last_step(self) -> int:
        """The step at which training ends."""
        return int(self.set_initial_training_values(self.args, self.get_train_dataloader())[-1])

    def is_at_end(self, checkpoint: str) -> bool:
        """Whether nothing is left to train after a checkpoint."""
        return bool(read_manifest(Path(checkpoint) / STATE)["global_step"] >= self.last_step)

    def load_end(self, checkpoint: str) -> TrainOutput:
        """Loads the models of a checkpoint at the end of training, the best ones where the config asks for them."""
        _logger.info(f"{checkpoint}: is the end of training; nothing is left to train")
        self.model.load_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / STATE))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        return TrainOutput(self.state.global_step, 0.0, {})

    def load_since_log(self) -> None:
        """Loads the sums since the last log, of all processes that saved some, so that a resumed run logs what an
        undisturbed one does."""
        if self._resumed_from is None:
            return
        files = sorted(Path(self._resumed_from).glob(_SINCE_LOG.format("*")))
        with readable(self._resumed_from, *(file.name for file in files)):
            found = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
            loss = torch.stack([sums["loss"] for sums in found]).mean()  # each process has the mean, and logs the mean
            self._tr_loss, self._globalstep_last_logged = loss.to(self.args.device), found[0]["logged"]
            for sums in found if self.args.process_index == 0 else ():
                self._totals.load({name: part.to(self.args.device) for name, part in sums["totals"].items()})

    # ---- saving -----------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Saves a checkpoint, and removes older ones once it is whole."""
        out = self._get_output_dir(trial)
        folder = Path(out) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)  # what another number of processes left of it, too
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            torch.save(
                {"loss": self._tr_loss, "logged": self._globalstep_last_logged, "totals": self._totals.state()},
                folder / _SINCE_LOG.format(self.args.process_index),
            )
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_whole(folder, self.identity)
            self.accelerator.wait_for_everyone()  # at SIGTERM all end, none before the checkpoint is whole
        except BaseException as error:
            if self.args.should_save and not (folder / WHOLE).exists():
                shutil.rmtree(folder, ignore_errors=True)  # half of one is of no use, and takes space
            if is_write_failure(error):
                raise InputError(why_not_written(error), str(folder)) from error
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(out, limit, self.state.best_model_checkpoint, use_mtime=True)


class _AroundSteps(TrainerCallback):
    """Loads what a resumed run logs next, and ends a run that was asked to end, after a checkpoint."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self._trainer = trainer
        self._ends = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ends = False
        self._trainer.load_since_log()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        accelerator, self._ends = self._trainer.accelerator, self._trainer.asked_to_end
        if accelerator.num_processes > 1:  # all after the same step
            asked = torch.tensor(float(self._ends), device=accelerator.device)
            self._ends = bool(accelerator.reduce(asked, "sum") > 0)
        control.should_save |= self._ends

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._ends:
            self._trainer.asked_to_end = True  # by a signal to another process, perhaps
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def saving_at_sigterm(trainer: ResumableTrainer) -> Iterator[None]:
    """Context manager in which the first SIGTERM ends training after the current step, with a checkpoint; the second
    one ends it at once. No effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        if trainer.asked_to_end or not trainer.is_in_train:  # the second time, or nothing to save
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        _logger.info("SIGTERM: training ends after this step, with a checkpoint; another SIGTERM ends it at once")
        trainer.asked_to_end = True

    before = signal.signal(signal.SIGTERM, ask) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if trainer.asked_to_end:
        signal.raise_signal(signal.SIGTERM)
