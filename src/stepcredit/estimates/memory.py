"""Memory of a run by phase and part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stepcredit.errors import InputError, quoted
from stepcredit.estimates.micro_batches import Shape
from stepcredit.estimates.simulation import GRADIENTS, HEAD
from stepcredit.models.actor_critic import POLICY, VALUE, ActorCritic
from stepcredit.models.adapters import is_peft
from stepcredit.models.first_use import PROVED_ROWS, TILES, measured_actions
from stepcredit.models.heads.value_heads import TrunkValue

PROCESS, OPTIMIZER, KEPT = "process", "optimizer state", "kept states, memory-mapped"
Parts = dict[str, float]
"""Bytes by part."""
_STATES = {
    "adamw_torch": 8.0,
    "adamw_torch_fused": 8.0,
    "adamw_apex_fused": 8.0,
    "adamw_anyprecision": 8.0,
    "adamw_bnb_8bit": 2.0,
    "adamw_8bit": 2.0,
    "lion_32bit": 4.0,
    "lion_8bit": 1.0,
    "rmsprop": 4.0,
    "adagrad": 4.0,
    "adafactor": 0.1,
    "sgd": 0.0,
}
"""Bytes of the state of each optimizer per trained number: AdamW keeps two moments in single precision."""


@dataclass(frozen=True)
class Memory:
    """Bytes of each phase of a run, by part.

    Attributes:
        phases: bytes by part when most are held, by phase.
    """

    phases: Mapping[str, Parts]

    @property
    def at(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def parts(self) -> Parts:
        """The bytes by part when most are held."""
        return self.phases[self.at]

    @property
    def peak(self) -> float:
        """The most bytes held at a time."""
        return sum(self.parts.values())


def weights_of(models: ActorCritic) -> Counter[str]:
    """Returns the bytes of parameters and buffers, by model; shared ones count for the first model that has them."""
    seen: set[int] = set()
    sizes: Counter[str] = Counter()
    parts: dict[str, Any] = {**models.parts(), "reference": models.reference}
    for name, part in parts.items():
        for tensor in () if part is None else (*part.parameters(), *part.buffers()):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                sizes[f"weights: {name}"] += tensor.numel() * tensor.element_size()
    head = models.reference_head
    for weight in () if head is None else head.weights:
        if id(weight) not in seen and not _is_view_of_parameter(weight, models):
            sizes["weights: reference"] += weight.numel() * weight.element_size()
    return sizes


def parameters_of(models: ActorCritic) -> tuple[int, int]:
    """Returns the numbers of trained and of frozen parameters, the reference's included and each counted once."""
    parts = [*models.parts().values(), *([] if models.reference is None else [models.reference])]
    unique = {id(p): p for part in parts for p in part.parameters()}.values()
    trained = sum(p.numel() for p in unique if p.requires_grad)
    return trained, sum(p.numel() for p in unique) - trained


def memory_of(
    models: ActorCritic,
    per_number: float,
    held: Parts,
    step: Mapping[str, float],
    precomputing: Parts | None,
    first: Shape,
) -> Memory:
    """Returns the memory of all phases.

    Args:
        models: the models as they are trained.
        per_number: bytes of the optimizer's state for a trained number (`state_bytes`).
        held: bytes by part that are held all the time.
        step: those of the simulated pass over the largest micro-batch.
        precomputing: bytes by part before training, where something is computed there.
        first: the size of the first micro-batch.
    """
    trained = [p for p in models.parameters() if p.requires_grad]
    state = {OPTIMIZER: per_number * sum(p.numel() for p in trained)}
    gradients = {GRADIENTS: float(sum(p.numel() * p.element_size() for p in trained))}
    config = models.config.get_text_config()
    phases: dict[str, Parts] = {} if precomputing is None else {"precomputing": precomputing}
    phases["first use"] = {**held, "proofs": first_use(first, config.vocab_size, config.hidden_size)}
    phases["forward and backward pass"] = {**held, **state, **named(step)}
    phases["optimizer step"] = {**held, **state, **gradients}
    phases["saving"] = {**held, **state, "copies": saving(models)}
    return Memory({phase: {name: size for name, size in parts.items() if size} for phase, parts in phases.items()})


def state_bytes(optimizer: Any) -> float:
    """Returns the bytes of an optimizer's state for a trained number.

    Raises:
        InputError: they are not known.
    """
    if optimizer not in _STATES:
        name = quoted(str(getattr(optimizer, "value", optimizer)))
        raise InputError(f"the memory of {name} is not known; choose from {', '.join(_STATES)}", "optim")
    return _STATES[optimizer]


def first_use(first: Shape, vocabulary: int, hidden: int) -> float:
    """Returns the bytes of the proofs on the first micro-batch (`models.first_use`): logits at all positions of a few
    rows with copies of those of their actions, or two heads on a few actions with the gradient of the weights."""
    actions = first.actions * min(PROVED_ROWS, first.rows) // first.rows
    positions = first.real * min(PROVED_ROWS, first.rows) // first.rows
    compared = (positions + 3 * actions) * vocabulary * 4
    timed = TILES * min(first.actions, measured_actions(vocabulary)) * vocabulary * 4 + vocabulary * hidden * 4
    return float(max(compared, timed))


def saving(models: ActorCritic) -> float:
    """Returns the bytes of copies that saving makes: an adapter is merged into a copy of its model, and a value head
    is saved with a copy of the policy's layers."""
    sizes = {name: sum(p.numel() * p.element_size() for p in part.parameters()) for name, part in
             models.parts().items()}  # fmt: skip
    copies = [float(sizes[name]) for name, part in models.parts().items() if is_peft(part)]
    if isinstance(models.value, TrunkValue):
        copies.append(sizes[POLICY] * (2.0 if is_peft(models.policy) else 1.0))
    return max(copies, default=0.0)


def named(parts: Mapping[str, float]) -> Parts:
    """Returns the parts of a simulated pass as they are named in tables."""
    names = {POLICY: "activations: policy", VALUE: "activations: value", HEAD: "head and loss"}
    return {names.get(name, name): float(size) for name, size in parts.items()}


def _is_view_of_parameter(weight: Tensor, models: ActorCritic) -> bool:
    storages = {p.untyped_storage()._cdata for p in models.parameters()}
    return weight.untyped_storage()._cdata in storages
