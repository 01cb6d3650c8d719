"""Proofs on the first micro-batch that the fast ways give the plain result, and the choice of the head by time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor

from stepcredit.episodes.alignment import at_states
from stepcredit.errors import InputError
from stepcredit.models.actor_critic import ActorCritic
from stepcredit.models.bodies.cpu_linear import onednn_speed
from stepcredit.models.bodies.packing import can_pack
from stepcredit.models.bodies.passes import Sequences, Way, base_of, hidden_states, run, sequences, shares_prefixes
from stepcredit.models.heads.action_statistics import ActionStatistics, at_actions, statistics_of
from stepcredit.models.heads.fused_head import one_pass_loss
from stepcredit.models.heads.linear_heads import LinearHead, check_linear_head, linear_head
from stepcredit.models.heads.value_heads import TrunkValue

_APART = "prompts: read with each response, because"
_LIMITS = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Relative difference up to which two ways of computing are equal, by type; 0.1 in half precision."""
PROVED_ROWS = 2
"""Rows on which the proofs are made."""
_SMALL = 2**24
"""Logits of a micro-batch up to which the naive head is taken without a measurement."""
_MARGIN = 1.1
"""A faster way must gain this factor; the fused head, which saves memory, may lose it."""
_MEASURED = 2**25
"""Logits for which the two heads are timed, or those of 256 actions."""
TILES = 8
"""Tensors of the size of the logits that the naive head holds, with gradients and a KL."""


@torch.enable_grad()
def settle(models: ActorCritic, batch: dict[str, Any], head: str, needs: dict[str, bool]) -> list[str]:
    """Sets `linear`, `way`, `fused` and `onednn` of the models, alike in all processes; returns lines for the log.

    The proofs need gradients, also where the first pass is one without, for the statistics of an optimizer step.

    Args:
        models: the models.
        batch: the first micro-batch.
        head: "naive", "fused" or "auto".
        needs: `needs_reference` and `needs_kl`, as in `ActorCritic.forward`.

    Raises:
        InputError: a setting needs a linear head or precomputed states, and the model or the states do not fit.
    """
    few = {name: field if name == "prefix" else field[:PROVED_ROWS] for name, field in batch.items()}
    notes = _settle_head(models, few, head)
    if "states" in batch or "prefix" in batch or can_pack(base_of(models.policy), batch["input_ids"].device):
        notes += _settle_bodies(models, few)
    if models.linear:
        notes += _choose_head(models, batch, head, needs)
    notes += _choose_linears(models, batch)
    return notes + _agree(models)


def _agree(models: ActorCritic) -> list[str]:
    """Makes all processes compute alike: in ways that were proved on the rows of each, and as the first one timed."""
    own = (models.linear, models.way, models.fused, models.onednn)
    ways: tuple[Way, ...] = ("whole", "shared", "packed")
    found = gather_object([(models.linear, ways.index(models.way), models.fused, models.onednn)])
    linear, way, fused, onednn = zip(*found, strict=True)
    models.linear, models.way = all(linear), ways[min(way)]
    models.fused, models.onednn = fused[0] and models.linear, onednn[0]
    if own == (models.linear, models.way, models.fused, models.onednn):
        return []
    return [f"as in all processes: rows {models.way}, head {'fused' if models.fused else 'naive'}"]


def _settle_head(models: ActorCritic, batch: dict[str, Any], head: str) -> list[str]:
    inputs, mask = sequences(batch), batch["action_mask"]
    with torch.no_grad():
        states = at_actions(at_states(hidden_states(base_of(models.policy), inputs, "whole")), mask)
        logits = at_actions(at_states(run(models.policy, inputs, "whole")[1]), mask)
        found = linear_head(models.policy, states)
        models.linear = found is not None and check_linear_head(*found, logits)
    if models.linear:
        return []
    name = type(models.policy).__name__
    wanted = {
        "head": head == "fused",
        "shared_trunk": isinstance(models.value, TrunkValue),
        "train_layers": models.train_layers is not None,
        "precompute_ref_log_probs": "ref_states" in batch,
    }
    for setting, is_set in wanted.items():
        if is_set:
            raise InputError(f"the logits of {name} are not a known linear map of its last hidden states; leave this "
                             "setting out", setting)  # fmt: skip
    return [f"head: {name}'s own, which is not a known linear map of its last hidden states"]


def _settle_bodies(models: ActorCritic, batch: dict[str, Any]) -> list[str]:
    """Chooses how rows are read: as fast as the model allows, where that gives the plain pass."""
    notes = []
    whole, device = base_of(models.policy), batch["input_ids"].device
    keeps_everything = all(shares_prefixes(body) for body in models.bodies.values())
    if keeps_everything and can_pack(whole, device):
        try:
            errors = _errors(models, batch, "packed")
            reason = None if errors is None else f"{type(whole).__name__} differs by {errors[1]:.1e} otherwise"
        except (TypeError, ValueError, RuntimeError) as error:
            reason = f"{type(whole).__name__} fails otherwise: {str(error).splitlines()[0]}"
        if reason is None:
            models.way = "packed"
            return ["rows: packed without padding" + ", prompts read once per micro-batch" * ("prefix" in batch)]
        notes.append(f"rows: padded, because {reason}")
    if "prefix" in batch and not keeps_everything:
        models.way = "whole"
        notes.append(f"{_APART} {type(whole).__name__} does not keep the keys and values of all tokens")
    errors = _errors(models, batch, models.way)
    if errors is not None and "states" in batch:
        raise InputError(f"the {errors[0]}'s last layers on precomputed states differ by {errors[1]:.1e} from all; "
                         "train all layers, or choose another --activation_cache", "train_layers")  # fmt: skip
    if errors is not None:
        models.way = "whole"
        return [*notes, f"{_APART} {type(whole).__name__} differs by {errors[1]:.1e} otherwise"]
    if "prefix" in batch and models.way == "shared":
        notes.append("prompts: read once per micro-batch")
    return notes


def _errors(models: ActorCritic, batch: dict[str, Any], way: Way) -> tuple[str, float] | None:
    """Returns the first model whose hidden states, or a gradient of them, differ from the plain pass from token ids,
    with the relative difference; None if none does."""
    mask = batch["action_mask"]
    for name, body in models.bodies.items():
        own = f"{name}_states" if f"{name}_states" in batch else "states"
        states = own if own in batch else None
        fast = _states_and_gradient(body, body, sequences(batch, states), way, mask)
        plain = _states_and_gradient(body, base_of(models.parts()[name]), sequences(batch), "whole", mask)
        dtypes = [batch[states].dtype if states else plain[0].dtype, plain[0].dtype]
        if torch.is_autocast_enabled(mask.device.type):
            dtypes.append(torch.get_autocast_dtype(mask.device.type))
        error = max(float((x - y).norm() / y.norm().clamp(min=1e-30)) for x, y in zip(fast, plain, strict=True))
        if not error <= max(_LIMITS.get(dtype, 0.1) for dtype in dtypes):
            return name, error
    return None


def _states_and_gradient(trained: Any, body: Any, inputs: Sequences, way: Way, action_mask: Tensor) -> list[Tensor]:
    """Returns the hidden states of the actions, and the gradient of a fixed sum of them in a trained weight; without
    the gradient where weights are sharded over processes, which is computed in whole backward passes alone."""
    weights = list(trained.parameters())
    is_sharded = any(isinstance(p, DTensor) for p in weights)
    weight = None if is_sharded else next((p for p in weights if p.requires_grad), None)
    with torch.set_grad_enabled(weight is not None):
        states = at_actions(at_states(hidden_states(body, inputs, way)), action_mask)
        if weight is None:
            return [states]
        directions = torch.arange(states.numel(), device=states.device, dtype=states.dtype).sin().view_as(states)
        (gradient,) = torch.autograd.grad((states * directions).sum(), weight)
    return [states.detach(), gradient]


def _choose_head(models: ActorCritic, batch: dict[str, Any], head: str, needs: dict[str, bool]) -> list[str]:
    if head != "auto":
        models.fused = head == "fused"
        return []
    with torch.no_grad():
        states = at_actions(
            at_states(hidden_states(base_of(models.policy), sequences(batch), models.way)), batch["action_mask"]
        )
    found = linear_head(models.policy, states)
    assert found is not None
    vocabulary = len(found[0].weights[0])
    by_size = head_by_size(len(states), vocabulary, _free_memory(states.device))
    if by_size == "naive":
        return []
    if by_size == "fused":
        models.fused = True
        return [f"head: fused, because {len(states) * vocabulary * 4 / 1e9:.1f} GB of logits do not fit several times"]
    some = slice(0, measured_actions(vocabulary))
    row = batch["action_mask"].nonzero()[some, 0]
    action = batch["action"][batch["action_mask"]][some]
    seconds = head_seconds(found[0], tuple(x[some] for x in found[1]), action, row, needs)
    chosen = faster_head(seconds)
    models.fused, other = chosen == "fused", "naive" if chosen == "fused" else "fused"
    return [f"head: {chosen}, {seconds[chosen]:.2g} s for {len(action)} actions; {other} {seconds[other]:.2g} s"]


def _choose_linears(models: ActorCritic, batch: dict[str, Any]) -> list[str]:
    speed = faster_linears(models, batch["attention_mask"])
    models.onednn = speed is not None
    return [] if speed is None else [f"linear layers: oneDNN, {speed:.1f} times as fast as PyTorch's default"]


def faster_linears(models: ActorCritic, mask: Tensor) -> float | None:
    """Returns how much faster oneDNN computes the largest linear layer on the tokens of a micro-batch; None if not."""
    layers = [x for body in models.bodies.values() for x in body.modules() if type(x) is torch.nn.Linear]
    if mask.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not layers:
        return None
    largest = max(layers, key=lambda layer: layer.weight.numel())
    if largest.weight.dtype != torch.float32:
        return None
    speed = onednn_speed(min(int(mask.sum()), 1024), largest.in_features, largest.out_features)
    return speed if speed is not None and speed > _MARGIN else None


def head_by_size(actions: int, vocabulary: int, free: int) -> str | None:
    """Returns the head, "naive" or "fused", where the size decides; None where both are timed.

    Args:
        actions: those of a micro-batch.
        vocabulary: tokens.
        free: free memory in bytes.
    """
    count = actions * vocabulary
    if count <= _SMALL:
        return "naive"
    return "fused" if TILES * count * 4 > 0.5 * free else None


def faster_head(seconds: dict[str, float]) -> str:
    """Returns the head to take, from the seconds of both."""
    return "fused" if seconds["fused"] < _MARGIN * seconds["naive"] else "naive"


def measured_actions(vocabulary: int) -> int:
    """Returns the number of actions on which the heads are timed."""
    return max(256, _MEASURED // vocabulary)


def head_seconds(
    head: LinearHead,
    inputs: tuple[Tensor, ...],
    action: Tensor,
    row: Tensor,
    needs: dict[str, bool],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Returns the seconds of the fused and of the naive head, forward and with gradients.

    Args:
        head, inputs, action: as in `fused_head.head_statistics`; the reference has the same head and inputs.
        row: the row of the batch that each action belongs to.
        needs: `needs_reference` and `needs_kl`, as in `ActorCritic.forward`.
        clock: returns seconds.
    """
    reference = (head, tuple(x.detach() for x in inputs)) if needs["needs_reference"] else (None, None)
    inputs = tuple(x.detach().requires_grad_() for x in inputs)

    def fused() -> Tensor:
        loss = lambda statistics, others, first, last: _plain_loss(statistics)  # noqa: E731
        return one_pass_loss(head, inputs, action, row, loss, *reference, needs_kl=needs["needs_kl"])

    def naive() -> Tensor:
        ref_logits = None if reference[0] is None else reference[0].logits(reference[1])
        return _plain_loss(statistics_of(head.logits(inputs), ref_logits, action, needs["needs_kl"]))

    trained = (*inputs, *(weight for weight in head.weights if weight.requires_grad))
    return {name: _seconds(loss, trained, clock) for name, loss in (("fused", fused), ("naive", naive))}


def _plain_loss(statistics: ActionStatistics) -> Tensor:
    loss: Tensor = statistics.log_prob.sum()
    return loss if statistics.kl is None else loss + statistics.kl.sum()


def _seconds(loss: Callable[[], Tensor], trained: tuple[Tensor, ...], clock: Callable[[], float]) -> float:
    """Returns the shorter time of two forward passes with gradients."""
    times = []
    for _ in range(2):
        start = clock()
        torch.autograd.grad(loss(), trained)
        if trained[0].is_cuda:
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times)


def _free_memory(device: torch.device) -> int:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(free)
