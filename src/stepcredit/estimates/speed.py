"""Speed of a device: measured on this machine on two layers, the head and the optimizer, or from a data sheet."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from stepcredit.episodes.alignment import Trajectory
from stepcredit.estimates.devices import BANDWIDTH_SHARE, UTILISATION, Device
from stepcredit.estimates.empty_models import models_of
from stepcredit.estimates.micro_batches import Shape, shape_of
from stepcredit.estimates.recorder import Recorder
from stepcredit.models.actor_critic import POLICY, VALUE, ActorCritic
from stepcredit.models.bodies.cpu_linear import onednn_linears
from stepcredit.models.bodies.freed_memory import OFTEN, give_back
from stepcredit.models.bodies.passes import base_of, hidden_states, sequences
from stepcredit.models.bodies.recomputation import recomputing
from stepcredit.models.first_use import faster_linears, head_seconds, measured_actions
from stepcredit.models.heads.linear_heads import LinearHead
from stepcredit.progress import Meter
from stepcredit.training.batching import Collator
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.train import TrainConfig

Clock = Callable[[], float]
_LAYERS = 2
_FLOPS = 4e11
"""Operations of a measured pass at most, by leaving out rows."""
_NUMBERS = 2**24
"""Parameters of the measured optimizer step."""
_REPEATS = 3


class Speed(NamedTuple):
    """Operations a second of the parts of a step, and seconds per trained parameter of the optimizer's step.

    Attributes:
        policy, value: their forward and backward passes; `value` 0 without a value model.
        forward: passes without gradient.
        head: seconds per action of each head, by name; empty: as fast as the policy.
        optimizer: clipping included.
    """

    policy: float
    value: float
    forward: float
    head: dict[str, float]
    optimizer: float


def published(device: Device, half: bool) -> Speed:
    """Returns the speed of a GPU by its data sheet; AdamW reads and writes 36 bytes per parameter."""
    rate = UTILISATION * (device.half if half else device.single)
    return Speed(rate, rate, rate, {}, 36 / (BANDWIDTH_SHARE * device.bandwidth))


def measured(
    config: TrainConfig,
    args: OfflineConfig,
    policy_config: Any,
    rows: list[Trajectory],
    head: LinearHead | None,
    needs: dict[str, bool],
    on: str,
    clock: Clock = time.perf_counter,
) -> Speed:
    """Measures the speed of this machine with random weights, in a few seconds; shows progress.

    Args:
        config, args: the run.
        policy_config: the config of the policy.
        rows: a typical micro-batch.
        head: the policy's head, with or without numbers; None: it is not linear.
        needs: `needs_reference` and `needs_kl`.
        on: "cpu" or "cuda".
        clock: returns seconds.
    """
    timer = Timer(on, clock)
    with Meter("measuring this machine", 3, "parts") as meter:
        with torch.device(on):
            models = models_of(config, _whole(args), shallow(policy_config, _LAYERS))
        models.train()
        layers = args.train_layers or policy_config.get_text_config().num_hidden_layers
        rates = _body_rates(models, args, rows, timer, gives_back=layers >= OFTEN)
        meter.advance()
        found = {} if head is None else _head_seconds(head, shape_of(rows, args.share_prompts), needs, timer)
        meter.advance()
        optimizer = _optimizer_seconds(timer)
        meter.advance()
    return Speed(rates[POLICY], rates.get(VALUE, 0.0), rates["forward"], found, optimizer)


class Timer(NamedTuple):
    """Times functions on a device."""

    device: str
    clock: Clock

    def seconds(self, run: Callable[[], object], before: Callable[[], object] | None = None) -> float:
        """Returns the median of a few runs, with what comes before each outside the time."""
        times = []
        for _ in range(_REPEATS):
            if before is not None:
                before()
            start = self.clock()
            run()
            if self.device == "cuda":
                torch.cuda.synchronize()
            times.append(self.clock() - start)
        return median(times)


def shallow(config: Any, layers: int) -> Any:
    """Returns the config of a model with so few layers and a vocabulary of two tokens."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers, text.vocab_size = layers, 2
    text.pad_token_id = text.bos_token_id = text.eos_token_id = None
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = text.layer_types[-layers:]
    return config


def _whole(args: OfflineConfig) -> OfflineConfig:
    """Returns the settings with all of the few layers trained."""
    args = copy.copy(args)
    args.train_layers = None
    args.precompute_ref_log_probs = False
    return args


def _body_rates(
    models: ActorCritic, args: OfflineConfig, rows: list[Trajectory], timer: Timer, gives_back: bool
) -> dict[str, float]:
    """Returns operations a second of each model's layers, and of the policy's without gradient.

    `gives_back`: a step of the run has so many layers that it gives freed memory back, and takes new memory.
    """
    rates: dict[str, float] = {}
    batch = _batch(models, args, rows, timer.device)
    onednn = faster_linears(models, batch["attention_mask"]) is not None
    for name, body in (*models.bodies.items(), ("forward", base_of(models.policy))):
        like = next((other for other in rates if _alike(models.bodies[other], body)), None)
        if name != "forward" and like is not None:
            rates[name] = rates[like]
            continue
        gradient = name != "forward"
        run = _pass(body, batch, gradient, gradient and models.recomputes)
        recorder = Recorder()
        with recorder:
            run()
        with onednn_linears([body]) if onednn and gradient else nullcontext():
            rates[name] = recorder.flops.total() / timer.seconds(
                run, before=give_back if gives_back and gradient else None
            )
        body.zero_grad(set_to_none=True)
    return rates


def _batch(models: ActorCritic, args: OfflineConfig, rows: list[Trajectory], device: str) -> dict[str, Any]:
    """Returns as many rows as can be run often, as a batch of token ids 0."""
    numbers = sum(p.numel() for p in base_of(models.policy).parameters())
    while len(rows) > 1 and 6 * numbers * shape_of(rows, args.share_prompts).tokens > _FLOPS:
        rows = rows[: -(-len(rows) // 2)]
    batch = Collator(0, args.share_prompts)([{"trajectories": (row,)} for row in rows])
    batch["input_ids"] = torch.zeros_like(batch["input_ids"])
    if "prefix" in batch:
        batch["prefix"]["input_ids"] = torch.zeros_like(batch["prefix"]["input_ids"])
    return send_to_device(batch, device)  # type: ignore[no-any-return]


def _pass(body: Any, batch: dict[str, Any], gradient: bool, recomputes: bool) -> Callable[[], object]:
    def run() -> None:
        body.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(gradient), recomputing([body]) if recomputes else nullcontext():
            states = hidden_states(body, sequences(batch))
            if gradient:
                states.backward(torch.ones_like(states))

    return run


def _alike(body: Any, other: Any) -> bool:
    """Whether two bodies have parameters of the same shapes, and train the same ones."""
    described = [[(p.shape, p.requires_grad) for p in part.parameters()] for part in (body, other)]
    return described[0] == described[1]


def _head_seconds(head: LinearHead, shape: Shape, needs: dict[str, bool], timer: Timer) -> dict[str, float]:
    """Returns the seconds per action of the fused and of the naive head."""
    actions = min(shape.actions, measured_actions(len(head.weights[0])))
    weights = tuple(_random(w, timer.device) for w in head.weights)
    inputs = tuple(torch.randn(actions, w.shape[1], device=timer.device, dtype=w.dtype) for w in weights)
    action = torch.zeros(actions, dtype=torch.long, device=timer.device)
    row = torch.arange(actions, device=timer.device) * shape.rows // shape.actions
    found = head_seconds(head._replace(weights=weights), inputs, action, row, needs, timer.clock)
    return {name: seconds / actions for name, seconds in found.items()}


def _random(weight: Tensor, device: str) -> Tensor:
    made = torch.randn(weight.shape, dtype=weight.dtype, device=device) * 0.02
    return made.requires_grad_(weight.requires_grad)


def _optimizer_seconds(timer: Timer) -> float:
    """Returns the seconds per parameter of clipping and AdamW."""
    weights = [nn.Parameter(torch.zeros(_NUMBERS // 4, device=timer.device)) for _ in range(4)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW(weights, fused=True)

    def run() -> None:
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    run()
    return timer.seconds(run) / _NUMBERS
