"""A micro-batch, run on tensors without data: the code of training itself, which allocates nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from stepcredit.estimates.recorder import Recorder
from stepcredit.models.actor_critic import ActorCritic, ActorCriticOutput
from stepcredit.models.bodies.passes import base_of, run, sequences, split
from stepcredit.models.heads import fused_head, logit_tiles
from stepcredit.models.heads.action_statistics import at_actions
from stepcredit.models.heads.fused_head import head_statistics
from stepcredit.models.heads.linear_heads import linear_head

HEAD, REFERENCE, GRADIENTS = "head", "reference", "gradients"
"""Parts beside policy and value model; `REFERENCE`: all passes without gradient."""


class Recorded(NamedTuple):
    """What a pass takes.

    Attributes:
        memory: bytes by part when most are alive, without weights and optimizer state.
        flops: operations by part.
    """

    memory: Counter[str]
    flops: Counter[str]


class Simulation:
    """Passes of fake models (`empty_models.pretend`) over real masks and token ids.

    Args:
        models: the models.
        needs: `needs_reference` and `needs_kl`, as in `ActorCritic.forward`.
        half: the type of autocast; None: none.
        on_gpu: whether the fused head has the tiles of a GPU.
    """

    def __init__(self, models: ActorCritic, needs: dict[str, bool], half: torch.dtype | None, on_gpu: bool) -> None:
        self.models, self.needs, self.half, self.on_gpu = models, needs, half, on_gpu

    def micro_batch(self, batch: dict[str, Any], one_pass: bool, accumulated: bool = False) -> Recorded:
        """Runs the forward and backward pass of a micro-batch.

        Args:
            batch: its rows, as of a `Collator`, with what is precomputed.
            one_pass: whether the loss adds up over rows, so that the fused head takes one pass.
            accumulated: whether gradients of an earlier micro-batch are there.
        """
        recorder = self._recorder()
        objective = (lambda output, rows: _loss(output)) if one_pass else None
        with self._watched(recorder):
            for _ in range(2 if accumulated else 1):
                recorder.flops.clear()
                with recorder.running(HEAD), self._autocast():
                    output = self.models(batch, **self.needs, objective=objective)
                    loss = output if one_pass else _loss(output)
                    del output
                recorder.backward = True
                with recorder.running(HEAD):
                    loss.backward(torch.ones((), dtype=loss.dtype))
                del loss
                recorder.backward = False
        self.models.zero_grad(set_to_none=True)
        return Recorded(+recorder.at_peak, +recorder.flops)

    def without_gradient(self, batch: dict[str, Any]) -> Recorded:
        """Runs policy and reference over rows of which only statistics are needed (`Method.step_statistics`)."""
        recorder = self._recorder()
        with self._watched(recorder), recorder.running(HEAD), self._autocast(), torch.no_grad():
            self.models(batch, **self.needs)
        return Recorded(+recorder.at_peak, +recorder.flops)

    def precomputing(self, batch: dict[str, Any]) -> Recorded:
        """Runs what `training.precompute` runs once, over a batch of token ids."""
        recorder, inputs = self._recorder(), sequences(batch)
        with recorder.running(REFERENCE), self._autocast(), torch.no_grad():
            if self.needs["needs_reference"]:
                with self.models.reference_model() as reference:
                    rows = run(base_of(reference), inputs)[1]
                    if not self.needs["needs_kl"]:
                        mask = batch["action_mask"]
                        head = linear_head(reference, at_actions(rows[:, :-1], mask))
                        assert head is not None
                        head_statistics(*head, batch["action"][mask])
            elif self.models.train_layers is not None:
                run(split(base_of(self.models.policy), self.models.train_layers)[0], inputs)
        return Recorded(+recorder.at_peak, +recorder.flops)

    def _recorder(self) -> Recorder:
        models = [model for model in (*self.models.parts().values(), self.models.reference) if model is not None]
        known = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        head = self.models.reference_head
        return Recorder([*known, *(() if head is None else head.weights)])

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.half is None else torch.autocast("cpu", self.half)

    @contextmanager
    def _watched(self, recorder: Recorder) -> Iterator[None]:
        """Tells the recorder which part runs: forward passes, their backward passes, and gradients that are kept."""
        with ExitStack() as stack:
            if self.on_gpu:
                stack.enter_context(_tiles_of_a_gpu())
            bodies = dict(self.models.bodies)
            if self.models.reference is not None:
                bodies[REFERENCE] = base_of(self.models.reference)
            for name, body in bodies.items():
                before, after = _switches(recorder, name)
                stack.callback(body.register_forward_pre_hook(before).remove)
                stack.callback(body.register_forward_hook(after).remove)
            for weight in self.models.parameters():
                if weight.requires_grad:
                    keep = weight.register_post_accumulate_grad_hook(lambda w: recorder.belongs_to(w.grad, GRADIENTS))
                    stack.callback(keep.remove)
            yield


def _switches(recorder: Recorder, name: str) -> tuple[Any, Any]:
    def before(*_: Any) -> None:
        recorder.part = name if torch.is_grad_enabled() else REFERENCE

    def after(module: Any, inputs: Any, output: Any) -> None:
        recorder.part = HEAD
        states = output.last_hidden_state
        if states.requires_grad:
            states.register_hook(lambda gradient: setattr(recorder, "part", name))

    return before, after


def _loss(output: ActorCriticOutput) -> Tensor:
    """Returns a loss with the gradients that methods have."""
    statistics, value, _ = output
    terms = [statistics.log_prob, statistics.kl, value]
    return torch.stack([x.float().sum() for x in terms if x is not None]).sum()


@contextmanager
def _tiles_of_a_gpu() -> Iterator[None]:
    tables: tuple[dict[str, Any], ...] = (fused_head.TILE, logit_tiles.BLOCK)
    kept = [table.pop("cpu") for table in tables]
    try:
        yield
    finally:
        for table, entry in zip(tables, kept, strict=True):
            table["cpu"] = entry


def with_precomputed(models: ActorCritic, batch: dict[str, Any], needs: dict[str, bool]) -> dict[str, Any]:
    """Adds what is computed before training to a batch, without its numbers: see `ActorCritic.forward`."""
    rows, length = batch["input_ids"].shape
    width = models.config.get_text_config().hidden_size
    batch, weight = dict(batch), next(models.parameters())
    assert isinstance(weight, FakeTensor)

    def nothing(*shape: int) -> Tensor:
        with weight.fake_mode:
            return torch.empty(shape)

    if needs["needs_reference"]:
        if needs["needs_kl"]:
            batch["ref_states"] = nothing(rows, length - 1, width)
        else:
            batch["ref_log_prob"] = nothing(rows, length - 1)
    if models.train_layers is not None:
        batch["states"] = nothing(rows, length, width)
        if "prefix" in batch:
            batch["prefix"] = {**batch["prefix"], "states": nothing(*batch["prefix"]["input_ids"].shape, width)}
    return batch
