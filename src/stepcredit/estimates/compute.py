"""Operations and seconds of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from stepcredit.estimates.micro_batches import Run
from stepcredit.estimates.simulation import HEAD, REFERENCE, Recorded
from stepcredit.estimates.speed import Speed
from stepcredit.models.actor_critic import POLICY, VALUE

NAMES = {POLICY: "policy", VALUE: "value model", REFERENCE: "passes without gradient", HEAD: "head and loss"}


@dataclass(frozen=True)
class Compute:
    """Operations and seconds of a run.

    Attributes:
        flops: operations of an optimizer step by part.
        seconds: seconds of an optimizer step by part.
        precomputing_flops, precomputing: operations and seconds before training.
        saved: seconds that an epoch would take longer without precomputing.
        steps, steps_per_epoch: optimizer steps of the run and of an epoch.
        tokens: tokens of an epoch, without padding.
    """

    flops: Mapping[str, float]
    seconds: Mapping[str, float]
    precomputing_flops: float
    precomputing: float
    saved: float
    steps: int
    steps_per_epoch: int
    tokens: float

    @property
    def step(self) -> float:
        """Seconds of an optimizer step."""
        return sum(self.seconds.values())

    @property
    def epoch(self) -> float:
        """Seconds of an epoch."""
        return self.step * self.steps_per_epoch

    @property
    def run(self) -> float:
        """Seconds of the run: precomputing and all steps, without loading, first use, evaluation and saving."""
        return self.precomputing + self.step * self.steps

    @property
    def tokens_per_second(self) -> float:
        """Tokens that are trained on in a second."""
        return self.tokens / self.epoch

    def with_value_updates(self, further: int, optimizer: float) -> Compute:
        """Returns it with further updates of the value model in each step, each with so many seconds of optimizer."""
        name = NAMES[VALUE]
        flops = {**self.flops, name: (1 + further) * self.flops[name]}
        seconds = {**self.seconds, name: (1 + further) * self.seconds[name]}
        seconds["optimizer"] += further * optimizer
        return replace(self, flops=flops, seconds=seconds)

    @property
    def break_even(self) -> float | None:
        """Epochs after which precomputing has paid; None where nothing is precomputed."""
        return self.precomputing / self.saved if self.saved else None


def step_of(
    run: Run, typical: Recorded, without_loss: Recorded | None, trained: int, speed: Speed, head: str
) -> Compute:
    """Returns operations and seconds of a run, without precomputing.

    Args:
        run: its micro-batches.
        typical: the pass over the typical one.
        without_loss: the pass over its rows without a loss.
        trained: number of trained parameters.
        speed: that of the device.
        head: "naive" or "fused".
    """
    shape, mean = run.shapes[run.typical], run.mean
    flops: defaultdict[str, float] = defaultdict(float)
    for recorded in (typical, without_loss):
        for part, count in () if recorded is None else recorded.flops.items():
            name = REFERENCE if recorded is without_loss and part != HEAD else part
            scale = mean.actions / shape.actions if part == HEAD else mean.tokens / shape.tokens
            flops[name] += count * scale * run.per_epoch / run.steps_per_epoch
    rates = {POLICY: speed.policy, VALUE: speed.value, REFERENCE: speed.forward, HEAD: speed.policy}
    seconds = {NAMES[part]: count / rates[part] for part, count in flops.items()}
    if speed.head:
        seconds[NAMES[HEAD]] = speed.head[head] * mean.actions * run.per_epoch / run.steps_per_epoch
    seconds["optimizer"] = trained * speed.optimizer
    named = {NAMES[part]: float(count) for part, count in flops.items()}
    return Compute(named, seconds, 0.0, 0.0, 0.0, run.steps, run.steps_per_epoch, mean.real * run.per_epoch)
