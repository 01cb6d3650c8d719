"""A whole training step: loss, backward and optimizer step, every scheme against the baselines.

Every repeat is a process of its own, all schemes in turn (A B C, A B C), because several sets of models and optimizer
states do not fit side by side. A process makes a first step, which is not counted (a baseline on two episodes; ours on
all, with whatever it prepares once), then the measured one. `python -m benchmarks.step --scheme NAME` is one of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import transformers
from transformers import TrainerCallback

from benchmarks.baseline_steps import BaselineStep, three_models
from benchmarks.flops import step_flops, utilisation
from benchmarks.measure import Failed, in_own_process, machine, median, memory, ratio, resident, skipped, synchronize
from benchmarks.step_schemes import BASELINES, COMMON, LORA, OURS, SCHEMES, Scheme
from benchmarks.workloads import WORKLOADS, Workload, tokens_of

MICRO_BATCH = {"smollm2": 16, "qwen": 8}
"""Rows of a micro-batch: two prompts with their eight responses; one on a GPU."""


def rows(device: str, repeats: int, prompts: int, workload: str, schemes: Sequence[str] = tuple(SCHEMES)) -> list[Any]:
    """Measures every scheme and returns a row for each of ours against each baseline."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in schemes}
    failed: dict[str, str] = {}
    for repeat, name in itertools.product(range(repeats), schemes):
        if name in failed or (repeat and SCHEMES[name].once):
            continue
        arguments = ("--scheme", name, "--device", device, "--problems", prompts, "--workload", workload)
        try:
            found[name].append(in_own_process("benchmarks.step", *arguments))
        except Failed as reason:
            failed[name] = str(reason)
            continue
        print(f"step: {name} {found[name][-1]['seconds']:.2f} s", flush=True)
    return [
        _row(name, baseline, found[name], found[baseline], failed, WORKLOADS[workload](prompts), device)
        for name in schemes
        for baseline in BASELINES
        if name != baseline and baseline in schemes
    ]


def _row(
    name: str,
    baseline: str,
    ours: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    failed: dict[str, str],
    workload: Workload,
    device: str,
) -> dict[str, Any]:
    def middle(runs: list[dict[str, Any]], key: str) -> float | None:
        numbers = [run[key] for run in runs if run[key] is not None]
        return median(numbers) if numbers else None

    tokens = tokens_of(workload.trajectories())
    seconds, once = middle(ours, "seconds"), middle(ours, "once_seconds")
    saved = None if seconds is None or not theirs else middle(theirs, "seconds") - seconds  # type: ignore[operator]
    flops = step_flops(workload.config, SCHEMES[name], tokens)
    return {
        "part": "step",
        "baseline": baseline,
        "scheme": name,
        "label": SCHEMES[name].label,
        "workload": workload.label,
        "vocab": workload.config.vocab_size,
        "hidden": workload.config.hidden_size,
        **tokens,
        "episodes": len(workload.episodes),
        "time_ratio": ratio(middle(theirs, "seconds"), seconds),
        "memory_ratio": ratio(middle(theirs, "memory"), middle(ours, "memory")),
        "memory_above_state_ratio": ratio(middle(theirs, "above_state"), middle(ours, "above_state")),
        "seconds": seconds,
        "baseline_seconds": middle(theirs, "seconds"),
        "memory": middle(ours, "memory"),
        "baseline_memory": middle(theirs, "memory"),
        "state": middle(ours, "state"),
        "above_state": middle(ours, "above_state"),
        "once_seconds": once,
        "break_even_epochs": once / saved if once is not None and saved and saved > 0 else None,
        "tokens_per_second": None if seconds is None else tokens["tokens"] / seconds,
        "mfu": utilisation(flops, seconds, device),
        "same_algorithm": SCHEMES[name].same_algorithm,
        "repeats": len(ours),
        **skipped(failed, baseline, name),
        **machine(device),
    }


# ---- one measurement, in its own process -----------------------------------------------------------------


class Step(NamedTuple):
    """A measured step: seconds, those of what is computed once before the first (None for a baseline), and bytes: the
    highest of the step, parameters with gradients and optimizer state, and the interpreter with its libraries."""

    seconds: float
    once_seconds: float | None
    memory: int
    state: int
    libraries: int


def measured(scheme: str, device: str, workload: Workload, micro_batch: int) -> dict[str, Any]:
    """Measures one step of a scheme; `above_state` is the highest memory beyond state and libraries."""
    measure = _baseline if scheme in BASELINES else _ours
    found = measure(scheme, device, workload, micro_batch)
    return {**found._asdict(), "above_state": found.memory - found.state - found.libraries}


def _libraries(device: str) -> int:
    """Returns the memory of the interpreter and the libraries loaded so far; they are not on a GPU."""
    return resident() if device == "cpu" else 0


def _baseline(scheme: str, device: str, workload: Workload, micro_batch: int) -> Step:
    if scheme == "published":
        from benchmarks.published import backward

        side = "left"
    else:
        from benchmarks.trl_blocks import backward

        side = "right"
    libraries = _libraries(device)
    models = three_models(workload.policy(device).train())
    models.value.train()
    step = BaselineStep(models, backward, side)
    episodes = workload.trajectories()
    random.Random(0).shuffle(episodes)  # as a data loader does
    step(episodes[:2], micro_batch)
    synchronize(device)
    with memory(device) as held:
        start = time.perf_counter()
        step(episodes, micro_batch)
        synchronize(device)
        seconds = time.perf_counter() - start
    return Step(seconds, None, held.top, state_bytes(models, step.optimizer), libraries)


class Measured(Exception):
    """The second step has been made; training need not go on."""


class StepClock(TrainerCallback):
    """When training began, the seconds of the first two steps, and the highest memory of the second in bytes."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, list[float]()
        self.memory = memory(device)

    def on_train_begin(self, *given: Any, **more: Any) -> None:
        """Notes the time."""
        self.began = self.start = time.perf_counter()

    def on_step_end(self, *given: Any, **more: Any) -> None:
        """Notes the time of a step, which includes that of fetching its batch.

        Raises:
            Measured: after the second step.
        """
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - self.start)
        if len(self.seconds) == 1:
            self.held = self.memory.__enter__()
            self.start = time.perf_counter()
        else:
            self.memory.__exit__(None, None, None)
            raise Measured


def _ours(scheme: str, device: str, workload: Workload, micro_batch: int) -> Step:
    from stepcredit import OfflineTrainer, OREOConfig
    from stepcredit.models import first_use
    from stepcredit.models.heads import logit_tiles

    of, clock, libraries = OURS[scheme], StepClock(device), _libraries(device)
    if not of.onednn:
        first_use.faster_linears = lambda *_: None
        logit_tiles._ONEDNN = None
    with tempfile.TemporaryDirectory() as folder:
        config = OREOConfig(
            output_dir=folder,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=max(1, len(workload.episodes) // micro_batch),
            max_steps=2,
            use_cpu=device == "cpu",
            bf16=device == "cuda",
            max_length=None,
            **COMMON,
            **of.settings,
        )
        trainer = OfflineTrainer(
            workload.policy(device) if workload.folder is None else str(workload.folder),
            args=config,
            train_dataset=workload.episodes,
            processing_class=workload.tokenizer,
            callbacks=[clock],
            **_adapters(of),
        )
        start = time.perf_counter()
        with suppress(Measured):
            trainer.train()
        models = [*trainer.model.parts().values(), trainer.model.reference]
        state = state_bytes(models, trainer.optimizer)
        return Step(clock.seconds[1], clock.began - start, clock.held.top, state, libraries)


def _adapters(scheme: Scheme) -> dict[str, Any]:
    if not scheme.lora:
        return {}
    from peft import LoraConfig

    kinds = {"peft_config": "CAUSAL_LM", "value_peft_config": "TOKEN_CLS"}
    if scheme.settings.get("shared_trunk"):
        del kinds["value_peft_config"]
    return {name: LoraConfig(task_type=kind, **LORA) for name, kind in kinds.items()}


def state_bytes(models: Sequence[Any], optimizer: Any) -> int:
    """Returns the bytes of parameters, their gradients, and the optimizer's state, shared tensors once."""
    parameters = {p.data_ptr(): p for model in models if model is not None for p in model.parameters()}.values()
    optimizer = getattr(optimizer, "optimizer", optimizer)
    moments = [x for of in optimizer.state.values() for x in of.values() if isinstance(x, torch.Tensor)]
    return sum(p.nbytes * (2 if p.requires_grad else 1) for p in parameters) + sum(x.nbytes for x in moments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", choices=SCHEMES, required=True)
    parser.add_argument("--workload", choices=WORKLOADS, default="smollm2")
    parser.add_argument("--problems", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("stepcredit").setLevel(logging.INFO)
    found = measured(args.scheme, args.device, WORKLOADS[args.workload](args.problems), MICRO_BATCH[args.workload])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
