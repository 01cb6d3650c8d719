"""Further updates of the value model on the batch of an optimizer step, after the one that it shares with the policy.

They come after that update and before the learning rate changes. The log-ratios in the targets of V are those from
before it, as in the loss of the policy, so that all updates of a step fit the same returns; with λ-returns, V in the
targets is that of each update. Only the value model runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerCallback

from stepcredit.models.actor_critic import VALUE, ActorCritic
from stepcredit.models.bodies.cpu_linear import onednn_linears
from stepcredit.models.heads.action_statistics import ActionStatistics
from stepcredit.training.methods import Method
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.optimizer_step.finite import Finding, FiniteCheck, nonfinite_flags
from stepcredit.training.optimizer_step.objective_inputs import Batch, objective_inputs, rows_of
from stepcredit.training.optimizer_step.optimizers import trainable


class AroundOptimizerStep(TrainerCallback):
    """Calls a function before the first micro-batch of each optimizer step, and another one after the step, before the
    learning rate changes and the gradients are cleared."""

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._before, self._after = before, after

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Calls the first."""
        self._before()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Calls the second."""
        self._after()


class _MicroBatch(NamedTuple):
    rows: Batch
    scale: Tensor | float
    parts: list[tuple[slice, ActionStatistics]]


class ValueUpdates:
    """The micro-batches of an optimizer step, on which the value model is updated again.

    Args:
        count: the number of further updates; with none, nothing is kept.
        method, args: the method and its config.
        accelerator: that of the trainer; parameters are whole in each process.
    """

    def __init__(self, count: int, method: Method, args: OfflineConfig, accelerator: Accelerator) -> None:
        self._count, self._method, self._args, self._accelerator = count, method, args, accelerator
        self._micro_batches: list[_MicroBatch] = []

    def clear(self) -> None:
        """Forgets the micro-batches."""
        self._micro_batches = []

    def begin(self, rows: Batch, scale: Tensor | float) -> None:
        """Starts a micro-batch, whose loss terms are multiplied by `scale`."""
        if self._count:
            self._micro_batches.append(_MicroBatch(rows, scale, []))

    def keep(self, part: slice, statistics: ActionStatistics) -> None:
        """Keeps the statistics of some rows of the current micro-batch."""
        if self._count:
            detached: list[Any] = [None if x is None else x.detach() for x in statistics]
            self._micro_batches[-1].parts.append((part, ActionStatistics(*detached)))

    def run(self, models: ActorCritic, optimizer: Any) -> Finding | None:
        """Makes the further updates of a step, and forgets its micro-batches.

        Args:
            models: policy and value model, without a wrapper.
            optimizer: the optimizer after its step. It makes steps of the parameters that have gradients, so that of
                the policy and its moments stay.

        Returns:
            What is not finite, and the prompts where it is not.
        """
        step, self._micro_batches = self._micro_batches, []
        if optimizer.step_was_skipped:  # gradients overflowed in half precision
            return None
        limit = self._args.max_grad_norm or float("inf")
        parameters = trainable(models.parts())[VALUE]
        for _ in range(self._count):
            finite = FiniteCheck(self._accelerator)
            models.zero_grad(set_to_none=True)
            for micro_batch in step:
                self._backward(models, micro_batch, finite)
            if self._accelerator.num_processes > 1:
                _average(parameters, self._accelerator)
            norm = self._accelerator.clip_grad_norm_(parameters, limit)
            finding = finite.step({VALUE: float(norm)})
            if finding is not None:
                return finding
            optimizer.step()
        return None

    def _backward(self, models: ActorCritic, micro_batch: _MicroBatch, finite: FiniteCheck) -> None:
        """Adds the gradient of a micro-batch."""
        rows = micro_batch.rows
        with onednn_linears(models.bodies.values()) if models.onednn else nullcontext():
            with self._accelerator.autocast():
                logits = models.value_logits(rows)
            losses = []
            for part, statistics in micro_batch.parts:
                of_part = rows_of(rows, part)
                inputs = objective_inputs(models.output(statistics, logits[part]), of_part)
                terms = self._method.terms(inputs, self._args)
                assert terms.value is not None
                finite.add(nonfinite_flags(inputs, of_part["prompt_id"], len(terms.value), terms))
                losses.append(terms.value.sum())
            self._accelerator.backward(torch.stack(losses).sum() * micro_batch.scale)


def _average(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Averages gradients over processes, in place."""
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad = accelerator.reduce(parameter.grad, "mean")
