"""Disk that a run takes: checkpoints, the models at the end, what precomputing keeps, and encoded episodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stepcredit.models.actor_critic import POLICY, ActorCritic
from stepcredit.models.heads.value_heads import TrunkValue
from stepcredit.training.offline_config import OfflineConfig


@dataclass(frozen=True)
class Disk:
    """Bytes on disk.

    Attributes:
        checkpoint: of one checkpoint.
        checkpoints: how many are kept.
        models: of the models at the end.
        kept: of what is kept of precomputing.
        encoded: of the temporary file of encoded episodes, of each process.
    """

    checkpoint: float
    checkpoints: int
    models: float
    kept: float
    encoded: float

    @property
    def run(self) -> float:
        """Bytes of all checkpoints that are kept, and of the models at the end; `kept` and `encoded` are not in it."""
        return self.checkpoints * self.checkpoint + self.models


def disk_of(
    models: ActorCritic,
    args: OfflineConfig,
    per_number: float,
    steps: int,
    steps_per_epoch: int,
    kept: float,
    encoded: float,
) -> Disk:
    """Returns the disk that a run takes; small files are not counted.

    Args:
        models, args: the run.
        per_number: bytes of the optimizer's state for a trained number.
        steps, steps_per_epoch: optimizer steps.
        kept: bytes of what is kept of precomputing.
        encoded: bytes of the encoded episodes.
    """
    trained = sum(p.numel() for p in models.parameters() if p.requires_grad)
    saved = _saved(models)
    return Disk(saved + per_number * trained, _checkpoints(args, steps, steps_per_epoch), saved, kept, encoded)


def _saved(models: ActorCritic) -> float:
    """Returns the bytes of the models as they are saved: an adapter is merged, a value head has the policy's layers."""
    sizes = {
        name: float(sum(p.numel() * p.element_size() for p in part.parameters()))
        for name, part in models.parts().items()
    }
    return sum(sizes.values()) + (sizes[POLICY] if isinstance(models.value, TrunkValue) else 0.0)


def _checkpoints(args: OfflineConfig, steps: int, steps_per_epoch: int) -> int:
    """Returns how many checkpoints a run keeps."""
    every = {"epoch": float(steps_per_epoch), "steps": args.save_steps}.get(args.save_strategy, math.inf)
    every = every * steps if every < 1 else every  # a share of the steps
    return min(math.ceil(steps / every), args.save_total_limit or steps)
