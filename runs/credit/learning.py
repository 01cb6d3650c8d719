"""What the scripts of this folder share: their options, pieces of work that are kept, learning, and scoring."""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from stepcredit import DQOConfig, Episode, OREOConfig
from stepcredit.episodes.alignment import TokenTexts, Trajectory, align
from stepcredit.episodes.steps import StepRule
from stepcredit.evaluation.first_error import Marked, chosen_cases
from stepcredit.experiments.initial_policy import small_run
from stepcredit.files import write_json
from stepcredit.models.loading import load_policy, load_tokenizer
from stepcredit.models.scoring import log_ratios_of, step_starts, sum_over_steps, value_after_steps, values_of
from stepcredit.results.provenance import versions
from stepcredit.training.progress_callback import show_progress
from stepcredit.training.trainer import OfflineTrainer

SMOLLM2 = Path.home() / ".cache/stepcredit/smollm2"
METHODS = {"oreo": OREOConfig, "dqo": DQOConfig}
VALUE, IMPLICIT = "ΔV", "β Σρ"
"""Names of the signals."""
RULE = StepRule()
"""Steps are lines."""


def options_of(about: str | None, sizes: dict[str, dict[str, Any]], out: Path) -> argparse.ArgumentParser:
    """A parser with the options that all scripts have; `sizes` are their defaults, by size."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help="folder of the data files")
    add("--output_dir", type=Path, default=out, help="results.json, cases.json, and pieces/, a file per piece")
    add("--work_dir", type=Path, default=Path("out/credit"), help="what frozen layers computed; may be deleted after")
    add("--size", choices=list(sizes), default="gpu" if torch.cuda.is_available() else "cpu", help="picks defaults")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if there is one")
    add("--threads", type=int, help="threads of PyTorch on a CPU")
    add("--minutes", type=float, default=float("inf"), help="begin no piece after so many; the same command goes on")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--summarise", action="store_true", help="only make the results from the pieces that are there")
    for name, about_it in LEARNING.items():
        kind = {"model": Path, "kl_estimator": str}.get(name, float if name in RATES else int)
        add(f"--{name}", type=kind, help=about_it)
    return parser


RATES = ("epochs", "learning_rate", "value_learning_rate", "beta", "kl_coef")
LEARNING = {
    "model": "folder of the pretrained policy, from which policy and value model start",
    "epochs": "passes over the episodes",
    "learning_rate": "peak learning rate of the policy",
    "value_learning_rate": "peak learning rate of the value model",
    "beta": "pull towards the reference, in units of reward",
    "kl_coef": "OREO's weight of the KL to the reference",
    "kl_estimator": "OREO's KL: exact or sampled",
    "batch": "episodes per optimizer step",
    "micro_batch": "episodes per micro-batch",
    "train_layers": "train only so many last layers; 0: all",
    "bf16": "compute under autocast: 1, or 0 on a processor that has no bf16",
}
"""Options of learning, with their help."""

SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"micro_batch": 8},
    "gpu": {"micro_batch": 16},
}
SHARED = {
    "model": SMOLLM2,
    "epochs": 2.0,
    "train_layers": 6,
    "learning_rate": 1e-4,
    "value_learning_rate": 3e-4,
    "beta": 0.03,
    "kl_coef": 0.01,
    "kl_estimator": "sampled",
    "batch": 32,
    "bf16": 1,
}


def parsed(parser: argparse.ArgumentParser, sizes: dict[str, dict[str, Any]]) -> argparse.Namespace:
    """The options; those not given come from the size."""
    options = parser.parse_args()
    for name, value in {**SHARED, **SIZES[options.size], **sizes[options.size]}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


class Pieces:
    """Results in a folder, a JSON file per piece of work, written whole; what is there is not made again."""

    def __init__(self, options: argparse.Namespace, settings: dict[str, Any]) -> None:
        self.folder: Path = options.output_dir / "pieces"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._until = time.monotonic() + 60 * options.minutes
        self._only_read = options.summarise

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The piece of this name, made if it is not there; None if it may not be made now."""
        file = self.folder / f"{name}.json"
        if file.exists():
            kept = json.loads(file.read_text())
            if (changed := _changed(kept["settings"], self._settings)) and not self._only_read:
                raise SystemExit(f"{file} was made with other settings ({changed}); give another --output_dir")
            return kept["rows"]
        if self._only_read or time.monotonic() > self._until:
            print(f"not yet made: {name}")
            return None
        started = time.monotonic()
        rows = make()
        seconds = round(time.monotonic() - started, 1)
        write_rows(file, {"settings": self._settings, "seconds": seconds, "versions": versions(), "rows": rows})
        print(f"{name}: {seconds} s", flush=True)
        return rows

    def rows(self) -> dict[str, Any]:
        """The rows of all pieces that are there, by name."""
        return {name: piece["rows"] for name, piece in self._kept().items()}

    def settings(self) -> dict[str, Any]:
        """Settings, versions and seconds of the pieces, by name."""
        about = ("settings", "versions", "seconds")
        return {name: {k: piece[k] for k in about} for name, piece in self._kept().items()}

    def _kept(self) -> dict[str, Any]:
        return {file.stem: json.loads(file.read_text()) for file in sorted(self.folder.glob("*.json"))}


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings on which what is learned depends: no folders, no device."""
    names = [name for name in LEARNING if name != "model"]
    return {"model": Path(options.model).name, **{name: getattr(options, name) for name in names}}


def _changed(kept: dict[str, Any], wanted: dict[str, Any]) -> str:
    return ", ".join(f"{n} {kept[n]}, not {wanted[n]}" for n in kept if kept[n] != wanted.get(n))


def write_rows(file: Path, piece: dict[str, Any]) -> None:
    """Writes a piece with one row per line, so that files stay small and can be compared."""
    draft = file.with_suffix(".draft")
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in piece["rows"])
    head = json.dumps({k: v for k, v in piece.items() if k != "rows"}, ensure_ascii=False)
    draft.write_text(f'{head[:-1]}, "rows": [\n{rows}\n]}}\n', encoding="utf-8")
    draft.replace(file)


def learn(method: str, episodes: Sequence[Episode], options: argparse.Namespace, seed: int) -> Any:
    """Policy and value model, from the pretrained policy, learned from the rewards of the episodes; in eval mode."""
    set_seed(seed)
    work: Path = options.work_dir
    on_gpu = options.device != "cpu"
    settings = small_run(
        work,
        seed,
        use_cpu=not on_gpu,
        bf16=bool(options.bf16),
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        value_learning_rate=options.value_learning_rate,
        beta=options.beta,
        per_device_train_batch_size=min(options.micro_batch, options.batch),
        gradient_accumulation_steps=max(1, options.batch // options.micro_batch),
        train_layers=options.train_layers or None,
        activation_cache=str(work / "activations") if options.train_layers else None,
        activation_dtype="bfloat16" if options.train_layers else None,
    )
    if method == "oreo":
        settings |= {"kl_coef": options.kl_coef, "kl_estimator": options.kl_estimator}
    tokenizer = load_tokenizer(str(options.model))
    trainer = OfflineTrainer(
        model=str(options.model),
        args=METHODS[method](**settings),
        train_dataset=list(episodes),
        processing_class=tokenizer,
    )
    show_progress(trainer, method)
    trainer.train()
    models = trainer.accelerator.unwrap_model(trainer.model)
    return models.policy.eval(), models.value.eval()


def free(options: argparse.Namespace) -> None:
    """Gives memory back. What frozen layers computed stays in work_dir for the next piece."""
    gc.collect()
    if options.device != "cpu":
        torch.cuda.empty_cache()


def aligned(episodes: Sequence[Episode], tokenizer: Any) -> list[Trajectory]:
    """The trajectories of episodes."""
    pieces = TokenTexts(tokenizer)
    return [align(e, tokenizer, RULE, pieces) for e in episodes]


def values(value: Any, trajectories: Sequence[Trajectory], options: argparse.Namespace) -> list[Any]:
    """V of all actions, in float32."""
    value = value.float().to(options.device)
    return in_batches(lambda rows: values_of(value, rows, len(rows)), trajectories, options)


def in_batches(
    score: Callable[[list[Trajectory]], list[Any]], trajectories: Sequence[Trajectory], options: argparse.Namespace
) -> list[Any]:
    """Scores trajectories in batches of similar length, with a limited number of tokens: logits are in memory."""
    limit = 4096  # with 49,152 words and two models a few GB
    order = sorted(range(len(trajectories)), key=lambda i: len(trajectories[i]))
    results: dict[int, Any] = {}
    while order:
        count = 1
        while count < len(order) and (count + 1) * len(trajectories[order[count]]) <= limit:
            count += 1
        rows, order = order[:count], order[count:]
        results.update(zip(rows, score([trajectories[i] for i in rows]), strict=True))
    return [results[i] for i in range(len(trajectories))]


def step_signals(
    trajectories: Sequence[Trajectory], policy: Any, reference: Any, value: Any, options: argparse.Namespace
) -> list[dict[str, list[float]]]:
    """V before the first step and after each, and β Σρ of each step, if there is a policy; rows that JSON can keep."""
    after = [value_after_steps(t, v) for t, v in zip(trajectories, values(value, trajectories, options), strict=True)]
    rows = [{"value": [round(float(x), 5) for x in v]} for v in after]
    if policy is None:
        return rows
    policy, reference = policy.float().to(options.device), reference.float().to(options.device)
    ratios = in_batches(lambda part: log_ratios_of(policy, reference, part, len(part)), trajectories, options)
    for row, t, ratio in zip(rows, trajectories, ratios, strict=True):
        row["implicit"] = [round(float(x), 5) for x in options.beta * sum_over_steps(t, ratio)]
    return rows


def reference_of(options: argparse.Namespace) -> Any:
    """The pretrained policy, from which learning started."""
    return load_policy(str(options.model), dtype=torch.float32).eval()


def step_lengths(trajectory: Trajectory) -> list[int]:
    """Number of tokens of each step."""
    return [int(n) for n in np.diff(step_starts(trajectory))]


def marked(row: dict[str, Any]) -> Marked:
    """A kept row as a response with marked steps."""
    signals = {VALUE: np.diff(row["value"]).tolist()}
    if "implicit" in row:
        signals[IMPLICIT] = row["implicit"]
    return Marked(
        problem=row["problem"],
        right=row["right"],
        wrong=tuple(map(bool, row["wrong"])),
        kinds=tuple(row["kinds"]),
        lengths=tuple(row["lengths"]),
        signals=signals,
        about=row,
    )


def write_cases(
    file: Path,
    responses: Sequence[Marked],
    texts: Callable[[dict[str, Any]], dict[str, Any]],
    seed: int = 0,
    signal: str = VALUE,
) -> None:
    """Keeps ten wrong responses to be read, step by step: half found by the signal, half missed; drawn by seed."""
    order = sorted(responses, key=lambda r: r.problem)
    random.Random(seed).shuffle(order)
    cases = []
    for r in chosen_cases(order, signal, 10):
        kept = {k: r.about[k] for k in ("problem", "right", "wrong", "kinds", "value", "implicit") if k in r.about}
        cases.append({**kept, "largest_drop": int(np.argmin(r.signals[signal])), **texts(dict(r.about))})
    write_json(file, cases)
