"""Whether the numbers of training are finite; if not, which they are and of which prompts.

Of a step's micro-batches nothing is read from the device before its gradient is, and then one flag for all of them.
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

from stepcredit.models.checks import is_finite
from stepcredit.training.methods import Signals, Terms

NAMED = 5
"""At most so many prompts are named."""


class Watched(NamedTuple):
    """What a micro-batch leaves behind: the kinds of numbers that an item has, which of them are *not* finite, and the
    prompts of the items."""

    kinds: tuple[str, ...]
    bad: Bool[Tensor, "K B"]
    prompts: Sequence[str]


def watched(signals: Signals, prompts: Sequence[str], items: int, terms: Terms | None = None) -> Watched:
    """What is to be checked of a micro-batch, in the order in which one number spoils the next.

    Args:
        signals: rows are the first trajectory of every item, then the second, and so on.
        prompts: of the rows.
        items: B, how many there are.
        terms: the losses, one number an item.
    """
    over_actions = {
        "the log-probability under the policy": signals.log_prob,
        "the log-probability under the reference": signals.ref_log_prob,
        "V": signals.value,
    }
    bad = {
        kind: (~x.detach().isfinite() & signals.action_mask).any(-1).reshape(-1, items).any(0)
        for kind, x in over_actions.items()
        if x is not None
    }
    if terms is not None:
        losses = [loss.detach() for loss in (terms.policy, terms.value) if loss is not None]
        bad["the loss"] = ~torch.stack(losses).isfinite().all(0)
    return Watched(tuple(bad), torch.stack(list(bad.values())), prompts[:items])


class Finding(NamedTuple):
    """A number that is not finite, and the prompts that it is of."""

    number: str
    prompts: list[str]

    def __str__(self) -> str:
        names = list(dict.fromkeys(self.prompts))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"{self.number} is not finite on prompt{'s' * (len(names) > 1)} {', '.join(names[:NAMED])}{more}"


class FiniteCheck:
    """Watches the micro-batches of an optimizer step, on all processes.

    Attributes:
        prompts: those of the latest step that was checked, on this process.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._step: list[Watched] = []
        self.prompts: list[str] = []

    def watch(self, micro_batch: Watched) -> None:
        """Adds a micro-batch to the step."""
        self._step.append(micro_batch)

    def step(self, gradient_norms: Mapping[str, float]) -> Finding | None:
        """What is not finite in the step, which ends here: a number of a micro-batch, else the gradient of a model.

        Under the loss scale of fp16 a gradient may overflow: the scaler leaves such a step out and lowers the scale.
        """
        step, self._step = self._step, []
        self.prompts = [prompt for batch in step for prompt in batch.prompts]
        finding = self.outputs(step)
        names = [name for name, norm in gradient_norms.items() if not math.isfinite(norm)]
        if finding is None and names and self._accelerator.scaler is None:
            finding = Finding(f"the gradient of {' and '.join(names)}", self._gathered(self.prompts))
        return finding

    def outputs(self, batches: Sequence[Watched]) -> Finding | None:
        """The first kind of number that is not finite, and all prompts that it is of."""
        if not batches or not self._anywhere(torch.stack([batch.bad.any() for batch in batches]).any()[None])[0]:
            return None
        pairs = [(k, batch.kinds[k], batch.prompts[b]) for batch in batches for k, b in batch.bad.nonzero().tolist()]
        found = self._gathered(pairs)
        first, kind, _ = min(found)
        return Finding(kind, [prompt for k, _, prompt in found if k == first])

    def weights(self, parts: Mapping[str, nn.Module]) -> Finding | None:
        """The models that have a weight which is not finite, and the prompts of the latest step."""
        held = {  # by this process, of a parameter that may be spread over several
            name: [p.to_local() if hasattr(p, "to_local") else p for p in part.parameters()]
            for name, part in parts.items()
        }
        whole = [all(is_finite(weight) for weight in weights) for weights in held.values()]
        bad = self._anywhere(~torch.tensor(whole, device=self._accelerator.device))
        names = [name for name, is_bad in zip(parts, bad, strict=True) if is_bad]
        if not names:
            return None
        return Finding(f"a weight of {' and '.join(names)}", self._gathered(self.prompts) or ["unknown"])

    def _anywhere(self, flags: Bool[Tensor, " N"]) -> list[bool]:
        return [number > 0 for number in self._accelerator.reduce(flags.float(), "sum").tolist()]

    def _gathered(self, objects: list[Any]) -> list[Any]:
        found: list[Any] = gather_object(objects)
        return found
