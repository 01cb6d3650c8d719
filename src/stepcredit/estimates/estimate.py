"""Estimate of the memory, time and disk of a training run, before it is started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, Any

import psutil
import torch

from stepcredit.episodes.alignment import Trajectory
from stepcredit.episodes.joined import joint_step_rule, load_folders
from stepcredit.errors import InputError
from stepcredit.estimates.compute import Compute, step_of
from stepcredit.estimates.devices import CONTEXT, Device, device_of
from stepcredit.estimates.disk import Disk, disk_of
from stepcredit.estimates.empty_models import build_empty, pretend
from stepcredit.estimates.memory import KEPT, PROCESS, Memory, Parts, memory_of, parameters_of, state_bytes, weights_of
from stepcredit.estimates.micro_batches import (
    Run,
    Shape,
    even,
    kept_positions,
    made_up_items,
    rows_of,
    run_of,
    shape_of,
)
from stepcredit.estimates.simulation import Recorded, Simulation, with_precomputed
from stepcredit.estimates.speed import Clock, Speed, measured, published
from stepcredit.flags import flag
from stepcredit.models.actor_critic import VALUE, ActorCritic
from stepcredit.models.first_use import faster_head, head_by_size
from stepcredit.models.heads.linear_heads import LinearHead, linear_head
from stepcredit.models.loading import load_config, load_tokenizer
from stepcredit.progress import track
from stepcredit.settings import Limits
from stepcredit.training.batching import Collator
from stepcredit.training.data import prepare
from stepcredit.training.items import Item, Items
from stepcredit.training.methods import Method, method_of
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.optimizer_step.optimizers import trainable
from stepcredit.training.precompute import chunks_of
from stepcredit.training.train import TrainConfig


@dataclass
class EstimateConfig(TrainConfig):
    """Estimate memory, time and disk of a run of `stepcredit train`, before anyone rents a GPU for it.

    Takes the flags of `train`, so that a command can be tried by changing its verb, and of the model only its config:
    no weights are downloaded or loaded. Memory is that of the training code itself, run on tensors without data. On
    this machine the speed of two layers, the head and the optimizer is measured, in a few seconds; a named GPU is
    taken to reach 35% of its data sheet.
    """

    episodes: list[str] = field(
        default_factory=list,
        kw_only=True,
        metadata={"help": "Folders of episodes; without one, give the lengths below."},
    )
    prompt_tokens: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata={"help": "Tokens of a prompt, where there are no episodes."}
    )
    response_tokens: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata={"help": "Tokens of a response, where there are no episodes."}
    )
    num_prompts: Annotated[int, Limits(at_least=1)] = field(
        default=1000, metadata={"help": "Number of prompts, where there are no episodes."}
    )
    num_generations: Annotated[int, Limits(at_least=1)] = field(
        default=8, metadata=flag("num_generations", "Where there are no episodes.")
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, or the name of a GPU, such as H100; default: this machine's."}
    )
    output: Annotated[str | None, Limits(not_empty=True)] = field(
        default=None, metadata={"help": "JSON file to write the estimate to."}
    )


@dataclass(frozen=True)
class Estimate:
    """An estimate.

    Attributes:
        model, method: what is trained, and how.
        device: where.
        trained, frozen: numbers of parameters, the reference's among the frozen ones.
        memory: bytes by phase and part.
        disk: bytes of checkpoints, of the models at the end, of what precomputing keeps, and of encoded episodes.
        compute: operations and seconds.
        head: "naive" or "fused", and who chose it.
        notes: what is worth a line.
    """

    model: str
    method: str
    device: Device
    trained: int
    frozen: int
    memory: Memory
    disk: Disk
    compute: Compute
    head: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns all numbers, in GB (10⁹ bytes), GFLOP and seconds."""
        giga = lambda parts: {name: round(size / 1e9, 4) for name, size in parts.items()}  # noqa: E731
        compute = self.compute
        return {
            "model": self.model,
            "method": self.method,
            "device": {"name": self.device.name, "memory_gb": round(self.device.memory / 1e9, 2)},
            "parameters": {"trained": self.trained, "frozen": self.frozen},
            "memory_gb": {
                "peak": round(self.memory.peak / 1e9, 4),
                "at": self.memory.at,
                "parts": giga(self.memory.parts),
                "phases": {phase: round(sum(parts.values()) / 1e9, 4) for phase, parts in self.memory.phases.items()},
            },
            "disk_gb": {
                **giga({name: getattr(self.disk, name) for name in ("checkpoint", "models", "kept", "encoded", "run")}),
                "checkpoints": self.disk.checkpoints,
            },
            "gflop_per_step": {name: round(count / 1e9, 3) for name, count in compute.flops.items()},
            "seconds_per_step": {name: float(f"{seconds:.4g}") for name, seconds in compute.seconds.items()},
            "seconds": {
                "step": float(f"{compute.step:.4g}"),
                "epoch": float(f"{compute.epoch:.4g}"),
                "precomputing": float(f"{compute.precomputing:.4g}"),
                "run": float(f"{compute.run:.4g}"),
            },
            "steps": compute.steps,
            "steps_per_epoch": compute.steps_per_epoch,
            "tokens_per_second": round(compute.tokens_per_second, 1),
            "break_even_epochs": None if compute.break_even is None else round(compute.break_even, 2),
            "head": self.head,
            "notes": list(self.notes),
        }


def estimate(config: EstimateConfig, args: OfflineConfig, clock: Clock = time.perf_counter) -> Estimate:
    """Estimates memory, time and disk of a run (see `EstimateConfig`).

    Args:
        config, args: the run.
        clock: returns the seconds that the speed of this machine is measured in.

    Raises:
        InputError: the device is not known, a config or the episodes cannot be read, or a setting does not fit.
    """
    method, device = method_of(args), device_of(config.device, torch.get_num_threads())
    if args.bf16 and not device.has_bf16:
        raise InputError(f"a {device.name} has no bf16; choose --fp16 true", "device")
    models = build_empty(config, args)
    items = _items(config, args, method)
    return _Estimator(config, args, method, device, models, items, clock).estimate()


def _items(config: EstimateConfig, args: OfflineConfig, method: Method) -> Items:
    """Returns the items to train on: of the episodes, or of responses of given lengths."""
    if config.episodes:
        args.step_delimiters = list(joint_step_rule(args.step_delimiters, config.episodes).delimiters)
        stores = load_folders(config.episodes)
        tokenizer = load_tokenizer(
            config.model,
            trust_remote_code=args.trust_remote_code,
            chat_template=args.chat_template,
            merge_system_message=args.merge_system_message,
        )
        episodes = track(chain.from_iterable(stores), "encoding", sum(map(len, stores)), "episodes")
        return prepare(episodes, tokenizer, args, method).items
    if config.prompt_tokens is None or config.response_tokens is None:
        raise InputError("give --episodes DIR, or --prompt_tokens and --response_tokens", "episodes")
    length = config.prompt_tokens + config.response_tokens
    if args.max_length is not None and length > args.max_length:
        raise InputError(f"prompt and response have {length} tokens, and training leaves out what is longer than "
                         f"--max_length {args.max_length}", "response_tokens")  # fmt: skip
    return made_up_items(
        config.num_prompts, config.num_generations, config.prompt_tokens, config.response_tokens, args, method
    )


class _Estimator:
    """The steps of an estimate; see `estimate`."""

    def __init__(
        self,
        config: EstimateConfig,
        args: OfflineConfig,
        method: Method,
        device: Device,
        models: ActorCritic,
        items: Items,
        clock: Clock,
    ) -> None:
        self.config, self.args, self.method, self.device = config, args, method, device
        self.models, self.items, self.clock = models, items, clock
        self.run: Run = run_of(items, args, method)
        self.needs = {"needs_reference": method.needs_reference, "needs_kl": method.needs_kl(args)}
        self.state_bytes = state_bytes(args.optim)
        self.half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        self.notes: list[str] = []
        self._passes: dict[Shape, Recorded] = {}
        self.process = CONTEXT if device.is_gpu else float(psutil.Process().memory_info().rss)
        pretend(models)
        models.train()
        if args.gradient_checkpointing or getattr(args, "activation_checkpointing", False):
            models.activation_checkpointing_enable()
        self.simulation = Simulation(models, self.needs, self.half, device.is_gpu)
        self.width = models.config.get_text_config().hidden_size

    def estimate(self) -> Estimate:
        """Returns the estimate."""
        head = linear_head(self.models.policy, torch.zeros(1, self.width))
        self.models.linear = head is not None
        speed = self._speed(None if head is None else head[0])
        self.models.fused = head is not None and self._chosen_head(head[0], speed) == "fused"
        trained, frozen = parameters_of(self.models)
        before: Parts = {PROCESS: self.process, **weights_of(self.models)}
        precomputing = self._precomputing() if self.args.precomputes else None
        if precomputing is not None and self.method.needs_reference:
            self.models.release_reference()
        kept = self._kept()
        passes = [self._pass(self.run.micro_batch(number)) for number in self.run.largest]
        memory = memory_of(
            self.models,
            self.state_bytes,
            {PROCESS: self.process, **weights_of(self.models), **({} if self.device.is_gpu else {KEPT: kept})},
            max(passes, key=lambda recorded: recorded.memory.total()).memory,
            None if precomputing is None else {**before, "frozen layers": precomputing.memory.total()},
            self.run.shapes[0],
        )
        compute = self._compute(speed, trained, precomputing)
        self._check_fit(memory)
        return Estimate(
            self.config.model,
            self.args.method,
            self.device,
            trained,
            frozen,
            memory,
            disk_of(
                self.models,
                self.args,
                self.state_bytes,
                compute.steps,
                compute.steps_per_epoch,
                kept,
                self.items.trajectories.nbytes,
            ),
            compute,
            "fused" if self.models.fused else "naive",
            tuple(self.notes),
        )

    # ---- memory -----------------------------------------------------------------------------------

    def _rows(self, rows: Sequence[Trajectory]) -> list[Trajectory]:
        """Returns the rows of a micro-batch as they are read: without padding where a GPU reads them packed."""
        return even(rows) if self.device.is_gpu and self.half is not None else list(rows)

    def _pass(self, items: Sequence[Item]) -> Recorded:
        rows = self._rows(rows_of(items, self.method)[0])
        shape = shape_of(rows, self.args.share_prompts)
        if shape not in self._passes:
            batch = self._batch(rows, self.args.share_prompts)
            if self.args.precomputes:
                batch = with_precomputed(self.models, batch, self.needs)
            one_pass = self.method.batch_layout.rows_per_item == 1
            accumulated = self.args.gradient_accumulation_steps > 1
            self._passes[shape] = self.simulation.micro_batch(batch, one_pass, accumulated)
        return self._passes[shape]

    def _batch(self, rows: Sequence[Trajectory], shared: bool) -> dict[str, Any]:
        return Collator(0, shared)([{"trajectories": (row,)} for row in rows])

    def _precomputing(self) -> Recorded:
        """Returns what one batch of precomputing takes, and the operations of all."""
        chunks = chunks_of(self.items)
        tokens = [shape_of(self._at(chunk), shared=True).tokens for chunk in chunks]
        largest = max(range(len(chunks)), key=lambda k: tokens[k])
        recorded = self.simulation.precomputing(self._batch(self._at(chunks[largest]), shared=True))
        scale = sum(tokens) / tokens[largest]
        for part in recorded.flops:
            recorded.flops[part] = round(recorded.flops[part] * scale)
        return recorded

    def _at(self, places: Sequence[tuple[int, int]]) -> list[Trajectory]:
        return [self.items[item][row] for item, row in places]

    def _kept(self) -> float:
        """Returns the bytes of what precomputing keeps."""
        positions, states = kept_positions(self.items)
        dtype = self.args.activation_dtype
        size = getattr(torch, dtype).itemsize if dtype else 4 if self.half is None else 2
        kept = 0.0
        if self.args.train_layers is not None:
            kept += positions * self.width * size * (2 if self.config.value_model is not None else 1)
        if self.args.precomputes and self.method.needs_reference:
            kept += states * (self.width * size if self.needs["needs_kl"] else 4)
        return kept

    def _check_fit(self, memory: Memory) -> None:
        if memory.peak <= self.device.memory:
            return
        ways = {
            "--head fused": self.models.linear and not self.models.fused,
            "a smaller --per_device_train_batch_size": self.args.per_device_train_batch_size > 1,
            "--precompute_ref_log_probs true": self.method.needs_reference and not self.args.precomputes,
            "--use_peft true": not self.config.use_peft,
            "--train_layers 8": self.args.train_layers is None,
        }
        hints = [way for way, is_open in ways.items() if is_open]
        hint = f": try {' or '.join(hints)}" if hints else ""
        self.notes.append(f"does not fit: needs {memory.peak / 1e9:.0f} GB, {self.device.name} has "
                          f"{self.device.memory / 1e9:.0f}{hint}")  # fmt: skip

    # ---- time -------------------------------------------------------------------------------------

    def _speed(self, head: LinearHead | None) -> Speed:
        if not self.device.is_here:
            return published(self.device, self.half is not None)
        rows = self._rows(rows_of(self.run.micro_batch(self.run.typical), self.method)[0])
        policy = load_config(self.config.model, trust_remote_code=self.args.trust_remote_code)
        on = "cuda" if self.device.is_gpu else "cpu"
        return measured(self.config, self.args, policy, rows, head, self.needs, on, self.clock)

    def _chosen_head(self, head: LinearHead, speed: Speed) -> str:
        """Returns the head that training will choose."""
        if self.args.head != "auto":
            return self.args.head
        free = self.device.memory - self.process - sum(weights_of(self.models).values())
        free = free if self.device.is_gpu else psutil.virtual_memory().available
        by_size = head_by_size(self.run.shapes[0].actions, len(head.weights[0]), int(free))
        return by_size or (faster_head(speed.head) if speed.head else "naive")

    def _compute(self, speed: Speed, trained: int, precomputing: Recorded | None) -> Compute:
        items = self.run.micro_batch(self.run.typical)
        others = rows_of(items, self.method)[1]
        without_loss = None
        if others:
            batch = self._batch(self._rows(others), self.args.share_prompts)
            batch = with_precomputed(self.models, batch, self.needs) if self.args.precomputes else batch
            without_loss = self.simulation.without_gradient(batch)
        head = "fused" if self.models.fused else "naive"
        compute = step_of(self.run, self._pass(items), without_loss, trained, speed, head)
        further = getattr(self.args, "value_updates_per_step", 1) - 1
        if further:
            of_value = sum(p.numel() for p in trainable(self.models.parts())[VALUE])
            compute = compute.with_value_updates(further, of_value * speed.optimizer)
        if precomputing is None:
            return compute
        positions, _ = kept_positions(self.items)
        flops = float(precomputing.flops.total())
        seconds = flops / speed.forward
        passes = self.run.mean.tokens * self.run.per_epoch / positions
        return replace(compute, precomputing_flops=flops, precomputing=seconds, saved=seconds * passes)
