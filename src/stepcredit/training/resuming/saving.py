"""Saving and loading by a `transformers.Trainer` whose model is an `ActorCritic`, which is no `PreTrainedModel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer

from stepcredit.files import write_json
from stepcredit.models.actor_critic import ActorCritic
from stepcredit.training.resuming.checkpoints import readable
from stepcredit.training.sharding import is_sharded, with_weights, without_weights


class SavingTrainer(Trainer):
    """A trainer that saves plain folders `policy/` and `value/`, and resumes from checkpoints that hold some.

    Attributes:
        whole: the models without weights, where these are sharded over processes.
    """

    whole: ActorCritic | None = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the models into a checkpoint or `output_dir` (see `_save`)."""
        if is_sharded(self.accelerator) and self.whole is None:  # loaded at the end of training, and still whole
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Saves resumable weights into `checkpoint-N`, and plain `policy/` and `value/` folders elsewhere."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        if self.whole is not None:
            model = with_weights(self.whole, state_dict)
        else:
            model = self.accelerator.unwrap_model(self.model)
        if folder.name.startswith("checkpoint-"):
            model.save_checkpoint(folder, self.processing_class)
        else:
            model.save_pretrained(folder, self.processing_class)
        write_json(folder / "training_args.json", self.args.to_dict())

    def _before_sharding(self, checkpoint: str | None) -> None:
        """Notes what is needed of models that are still whole, and loads a checkpoint into them."""
        if is_sharded(self.accelerator) and self.whole is None:
            self.whole = without_weights(self.model)
            if checkpoint and self.is_fsdp_enabled:
                self.model.load_checkpoint(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not is_sharded(self.accelerator):
            self.accelerator.unwrap_model(self.model if model is None else model).load_checkpoint(
                resume_from_checkpoint
            )

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        with readable(checkpoint, "optimizer.pt", "scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: Any) -> None:
        with readable(checkpoint, "rng_state.pth"):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        self.accelerator.unwrap_model(self.model).load_checkpoint(self.state.best_model_checkpoint)
