"""Initial policy of an experiment, and the episodes that every method is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from stepcredit.engines.engine import Engine, SamplingParams
from stepcredit.episodes.episode import Episode
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.progress import track_units
from stepcredit.rollouts.single_turn import sample_and_grade
from stepcredit.rollouts.work_units import work_units
from stepcredit.tasks.task import Task
from stepcredit.training.configs import SFTConfig
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.progress_callback import show_progress
from stepcredit.training.trainer import OfflineTrainer

BATCH = 64
"""Batch size of small runs, in episodes."""


@runtime_checkable
class Embedded(Protocol):
    """A task with a tokenizer and demonstrations, enough to train a policy from scratch."""

    def tokenizer(self) -> Any:
        """Returns the tokenizer."""
        ...

    def demonstrations(self, count: int, seed: int) -> list[Episode]:
        """Returns graded demonstrations for problems of the train split."""
        ...


class Scratch(NamedTuple):
    """Settings of the initial policy of an embedded task."""

    demonstrations: int = 20_000
    steps: int = 150
    learning_rate: float = 4e-3


def small_run(out: Path, seed: int, **settings: Any) -> dict[str, Any]:
    """Returns trainer settings of a small run (CPU, no checkpoints, no trackers), updated by `settings`."""
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": BATCH,
        "seed": seed,
        "data_seed": seed,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        **settings,
    }


def train_and_save(
    model: Any, config: OfflineConfig, episodes: Sequence[Episode], tokenizer: Any, **peft_configs: Any
) -> OfflineTrainer:
    """Trains with the method of the config, from the latest checkpoint if there is one, and saves the models.

    `peft_configs` are `peft_config` and `value_peft_config` of `OfflineTrainer`.
    """
    trainer = OfflineTrainer(
        model=model, args=config, train_dataset=episodes, processing_class=tokenizer, **peft_configs
    )
    show_progress(trainer, config.method)
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    return trainer


def demonstrated_policy(task: Embedded, out: Path, seed: int, scratch: Scratch) -> OfflineTrainer:
    """Trains a small policy from scratch on all demonstrations of a task, right and wrong."""
    tokenizer = task.tokenizer()
    model = policy_from_scratch(tokenizer, ModelSize(), seed)
    settings = small_run(out, seed, max_steps=scratch.steps, learning_rate=scratch.learning_rate, warmup_steps=0.05)
    return train_and_save(model, SFTConfig(**settings), task.demonstrations(scratch.demonstrations, seed), tokenizer)


def sampled_episodes(
    task: Task, engine: Engine, split: str, prompts: int, samples: int, params: SamplingParams
) -> list[Episode]:
    """Samples and grades `samples` responses to each of `prompts` problems; the seed of `params` determines problems
    and noise."""
    problems = list(task.problems(split, prompts, params.seed))
    units = work_units(problems, samples)
    drawn: list[Episode] = []
    for unit, advance in track_units(units, f"sampling {split}", samples):
        drawn += sample_and_grade(task, unit, engine, samples, params, advance)
    return drawn
