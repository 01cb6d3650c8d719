"""Checks that losses, model outputs, gradients and weights are finite, and names the prompts where they are not.

The flags of all micro-batches stay on the device until the gradient norm is read, and then cost one transfer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Bool
from torch import Tensor, nn

from stepcredit.errors import NotFiniteError
from stepcredit.models.checks import is_finite
from stepcredit.training.methods import LossTerms, ObjectiveInputs
from stepcredit.training.resuming.checkpoints import last_checkpoint

MAX_PROMPTS = 5
"""The maximal number of prompts in a message."""


class NonFiniteFlags(NamedTuple):
    """Flags of the non-finite numbers of a micro-batch, by kind of number and item, with the prompt of each item."""

    kinds: tuple[str, ...]
    bad: Bool[Tensor, "K B"]
    prompts: Sequence[str]


def nonfinite_flags(
    inputs: ObjectiveInputs, prompts: Sequence[str], items: int, terms: LossTerms | None = None
) -> NonFiniteFlags:
    """Flags the non-finite numbers of a micro-batch, in the order in which they are computed from each other.

    Args:
        inputs: rows are the first trajectory of every item, then the second, and so on.
        prompts: the prompt of each row.
        items: B, the number of items.
        terms: the loss terms, one number per item.
    """
    over_actions = {
        "the log-probability under the policy": inputs.log_prob,
        "the log-probability under the reference": inputs.ref_log_prob,
        "V": inputs.value,
    }
    bad = {
        kind: (~x.detach().isfinite() & inputs.action_mask).any(-1).reshape(-1, items).any(0)
        for kind, x in over_actions.items()
        if x is not None
    }
    if terms is not None:
        losses = [loss.detach() for loss in (terms.policy, terms.value) if loss is not None]
        bad["the loss"] = ~torch.stack(losses).isfinite().all(0)
    return NonFiniteFlags(tuple(bad), torch.stack(list(bad.values())), prompts[:items])


class Finding(NamedTuple):
    """A kind of number that is not finite, and the prompts where it is not."""

    number: str
    prompts: list[str]

    def __str__(self) -> str:
        names = list(dict.fromkeys(self.prompts))
        more = f" and {len(names) - MAX_PROMPTS} more" if len(names) > MAX_PROMPTS else ""
        return f"{self.number} is not finite on prompt{'s' * (len(names) > 1)} {', '.join(names[:MAX_PROMPTS])}{more}"


def stop_at(finding: Finding | None, step: int, output_dir: str) -> None:
    """Stops training where something is not finite.

    Raises:
        NotFiniteError: it is not; the message names the step and the newest checkpoint.
    """
    if finding is not None:
        newest = last_checkpoint(output_dir)
        kept = "no checkpoint was written before" if newest is None else f"the newest checkpoint is {newest}"
        raise NotFiniteError(f"{finding}; training stopped and saved nothing of it, {kept}", f"step {step}")


class FiniteCheck:
    """Checks the micro-batches of an optimizer step over all processes.

    Attributes:
        prompts: the prompts of the last checked step on this process.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._step: list[NonFiniteFlags] = []
        self.prompts: list[str] = []

    def add(self, micro_batch: NonFiniteFlags) -> None:
        """Adds a micro-batch to the current step."""
        self._step.append(micro_batch)

    def step(self, gradient_norms: Mapping[str, float]) -> Finding | None:
        """Ends the step and returns what is not finite in it: a number of a micro-batch, or a model's gradient.

        Under fp16 loss scaling a gradient may overflow: the scaler skips that step and lowers the scale.
        """
        step, self._step = self._step, []
        self.prompts = [prompt for batch in step for prompt in batch.prompts]
        finding = self.outputs(step)
        names = [name for name, norm in gradient_norms.items() if not math.isfinite(norm)]
        if finding is None and names and self._accelerator.scaler is None:
            finding = Finding(f"the gradient of {' and '.join(names)}", self._gather(self.prompts))
        return finding

    def outputs(self, batches: Sequence[NonFiniteFlags]) -> Finding | None:
        """Returns the first kind of number that is not finite, with all its prompts."""
        if not batches or not self._any_process(torch.stack([batch.bad.any() for batch in batches]).any()[None])[0]:
            return None
        pairs = [(k, batch.kinds[k], batch.prompts[b]) for batch in batches for k, b in batch.bad.nonzero().tolist()]
        gathered = self._gather(pairs)
        first, kind, _ = min(gathered)
        return Finding(kind, [prompt for k, _, prompt in gathered if k == first])

    def weights(self, parts: Mapping[str, nn.Module]) -> Finding | None:
        """Returns the models with a non-finite weight, and the prompts of the last step."""
        local = {  # this process's shard of each parameter
            name: [p.to_local() if hasattr(p, "to_local") else p for p in part.parameters()]
            for name, part in parts.items()
        }
        finite = [all(is_finite(weight) for weight in weights) for weights in local.values()]
        bad = self._any_process(~torch.tensor(finite, device=self._accelerator.device))
        names = [name for name, is_bad in zip(parts, bad, strict=True) if is_bad]
        if not names:
            return None
        return Finding(f"a weight of {' and '.join(names)}", self._gather(self.prompts) or ["unknown"])

    def _any_process(self, flags: Bool[Tensor, " N"]) -> list[bool]:
        return [number > 0 for number in self._accelerator.reduce(flags.float(), "sum").tolist()]

    def _gather(self, objects: list[Any]) -> list[Any]:
        gathered: list[Any] = gather_object(objects)
        return gathered
