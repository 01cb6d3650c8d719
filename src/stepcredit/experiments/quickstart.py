"""Quickstart: the whole pipeline on the embedded arithmetic task, on a CPU, without network access.

Demonstrations → small policy trained from scratch (SFT) → graded samples → rejection sampling and OREO on the same
samples → greedy accuracy of all three, and quality of the value model → report.html.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from transformers import set_seed

from stepcredit.engines.engine import SamplingParams, load_engine
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import append_episodes
from stepcredit.errors import InputError
from stepcredit.evaluation.rows import measure, write_value_files
from stepcredit.evaluation.value_quality import score
from stepcredit.experiments.initial_policy import (
    Scratch,
    demonstrated_policy,
    sampled_episodes,
    small_run,
    train_and_save,
)
from stepcredit.experiments.variants import legend
from stepcredit.files import changed_settings, holds_something, locked, write_json
from stepcredit.flags import flag
from stepcredit.report.page import write_report
from stepcredit.results.provenance import Stopwatch, versions
from stepcredit.results.row_files import add_rows, read_object
from stepcredit.results.schema import AccuracyRow
from stepcredit.searching.spec import SearchSpec
from stepcredit.settings import Limits, Settings
from stepcredit.tasks.arithmetic import Arithmetic
from stepcredit.training.configs import OREOConfig, RFTConfig
from stepcredit.training.curve_file import curve
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.trainer import OfflineTrainer

_RUN, _REPORT, _UNFINISHED = "run.json", "report.html", "unfinished.json"
_MADE = (
    *("sft", "rft", "oreo", "episodes", "responses", "results.json", "value.json", "credit.json", "curves.json"),
    *(_RUN, _REPORT, "timings.json", _UNFINISHED),
)
"""What a run makes; `_UNFINISHED` is there until it has ended."""


@dataclass
class QuickstartConfig(Settings):
    """Run the whole pipeline: demonstrations, SFT, sampling, rejection sampling, OREO, evaluation, report.

    Takes two to five minutes on two CPU cores. Results are byte-identical for the same seed and number of threads;
    timings are written to a separate file.
    """

    output_dir: Annotated[str, Limits(not_empty=True)] = field(
        default="quickstart",
        metadata=flag("output_dir", "A new or empty one, or that of an earlier run with the same settings."),
    )
    seed: Annotated[int, Limits(at_least=0, at_most=2**32 - 1)] = field(default=0, metadata=flag("seed"))
    threads: Annotated[int, Limits(at_least=1)] = field(
        default=2, metadata={"help": "CPU threads; results are reproducible for a fixed number."}
    )
    demonstrations: Annotated[int, Limits(at_least=1)] = field(
        default=20_000, metadata={"help": "Number of demonstrations for SFT."}
    )
    sft_steps: Annotated[int, Limits(at_least=1)] = field(default=150, metadata={"help": "Optimizer steps of SFT."})
    train_prompts: Annotated[int, Limits(at_least=1)] = field(
        default=800, metadata={"help": "Number of training prompts."}
    )
    num_generations: Annotated[int, Limits(at_least=1)] = field(
        default=8, metadata=flag("num_generations", "For training and for evaluating V.")
    )
    epochs: Annotated[float, Limits(above=0)] = field(
        default=2.0, metadata={"help": "Epochs of rejection sampling and OREO."}
    )
    value_warmup_steps: Annotated[int, Limits(at_least=0)] = field(
        default=60, metadata={"help": "Initial OREO steps that train only the value model."}
    )
    test_prompts: Annotated[int, Limits(at_least=1)] = field(
        default=1000, metadata={"help": "Number of test problems for accuracy."}
    )
    value_prompts: Annotated[int, Limits(at_least=1)] = field(
        default=200, metadata={"help": "Number of test problems for evaluating V on fresh samples."}
    )


class Loop:
    """State shared by the phases of a quickstart run."""

    def __init__(self, config: QuickstartConfig) -> None:
        self.config = config
        self.out = Path(config.output_dir)
        self.task = Arithmetic()
        self.tokenizer = self.task.tokenizer()
        self.rule = StepRule(self.task.step_delimiters)
        self.watch = Stopwatch()
        self.curves: dict[str, Any] = {}

    def train(self, config: OfflineConfig, episodes: list[Episode]) -> OfflineTrainer:
        """Trains from the SFT policy with the method of the config; records the curve and saves the models."""
        with self.watch.phase(f"train {config.method}"):
            trainer = train_and_save(str(self.out / "sft" / "policy"), config, episodes, self.tokenizer)
        self.curves[config.method] = curve(trainer.state.log_history)
        return trainer

    def sample(self, policy: Any, split: str, prompts: int, seed: int) -> list[Episode]:
        """Samples and grades `config.num_generations` responses per prompt of a split."""
        engine = load_engine(policy, tokenizer=self.tokenizer, batch_size=256)
        params = SamplingParams(self.task.max_new_tokens, seed=seed)
        return sampled_episodes(self.task, engine, split, prompts, self.config.num_generations, params)

    def test(self, method: str, policy: Any) -> AccuracyRow:
        """Evaluates the greedy accuracy on the test problems."""
        with self.watch.phase(f"evaluate {method}"):
            problems = self.task.problems("test", self.config.test_prompts, self.config.seed)
            engine = load_engine(policy, tokenizer=self.tokenizer, batch_size=256)
            search = SearchSpec("greedy", 1, SamplingParams(self.task.max_new_tokens, temperature=0.0))
            row, episodes = measure(self.task, problems, engine, search, self.common(method))
        append_episodes(self.out / "responses" / method, episodes)
        add_rows(self.out / "results.json", [row])
        return row

    def common(self, method: str) -> dict[str, Any]:
        """Returns the columns shared by the rows of a method."""
        return {
            "task": self.task.name,
            "task_version": self.task.version,
            "split": "test",
            "seed": self.config.seed,
            "method": method,
            "policy": f"{method}/policy",
            "value": None,
        }


def quickstart(config: QuickstartConfig) -> Path:
    """Runs the pipeline; returns the path of the report (see `QuickstartConfig`).

    A finished run is left as it is. One that was stopped begins anew, without what it had made.

    Raises:
        InputError: the folder holds something else, or a run with other settings.
    """
    out = Path(config.output_dir)
    with locked(out, "stepcredit quickstart"):
        kept = read_object(out / _RUN)
        if kept.get("command") == "quickstart" and not (out / _UNFINISHED).exists():
            settings = {**_settings(config), **versions()}
            if changed := changed_settings({name: kept.get(name) for name in settings}, settings):
                names = ", ".join(changed)
                raise InputError(f"was run with another {names}; remove it, or choose another --output_dir", str(out))
            return report if (report := out / _REPORT).exists() else write_report(out)
        if holds_something(out, _MADE if (out / _UNFINISHED).exists() else ()):
            raise InputError("is not empty; remove it, or choose another --output_dir", str(out))
        for name in _MADE:
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
        write_json(out / _UNFINISHED, {"command": "quickstart"})
        return _quickstart(config, out)


def _settings(config: QuickstartConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if name != "output_dir"}


def _quickstart(config: QuickstartConfig, out: Path) -> Path:
    torch.set_num_threads(config.threads)
    set_seed(config.seed)
    loop = Loop(config)
    policy = _sft(loop)
    episodes = _collect(loop, policy)
    loop.test("sft", policy)
    loop.test("rft", _rft(loop, episodes).model.policy)
    oreo = _oreo(loop, episodes)
    loop.test("oreo", oreo.model.policy)
    _judge_value(loop, policy, oreo.model.value)
    write_json(out / "curves.json", loop.curves)
    about = {"command": "quickstart", **_settings(config), "methods": legend(loop.curves), **versions()}
    write_json(out / _RUN, about)
    report = write_report(out)  # before the timings, so that the page is reproducible
    write_json(out / "timings.json", loop.watch.phases)
    (out / _UNFINISHED).unlink()
    return report


def _sft(loop: Loop) -> Any:
    """Train a small policy from scratch on all demonstrations, right and wrong."""
    scratch = Scratch(loop.config.demonstrations, loop.config.sft_steps)
    with loop.watch.phase("train sft"):
        trainer = demonstrated_policy(loop.task, loop.out / "sft", loop.config.seed, scratch)
    loop.curves["sft"] = curve(trainer.state.log_history)
    return trainer.model.policy


def _collect(loop: Loop, policy: Any) -> list[Episode]:
    """Sample and grade responses of the SFT policy: the offline data of both methods."""
    with loop.watch.phase("collect"):
        episodes = loop.sample(policy, "train", loop.config.train_prompts, loop.config.seed + 1)
        append_episodes(loop.out / "episodes", episodes)
    return episodes


def _rft(loop: Loop, episodes: list[Episode]) -> OfflineTrainer:
    """Train with rejection sampling: SFT on the right responses."""
    settings = small_run(loop.out / "rft", loop.config.seed, num_train_epochs=loop.config.epochs, learning_rate=1e-3)
    return loop.train(RFTConfig(**settings), episodes)


def _oreo(loop: Loop, episodes: list[Episode]) -> OfflineTrainer:
    """Train with OREO on all responses. The value model warms up first: with V = 0 everywhere, every right response has
    a large advantage, which moves the policy far from its reference."""
    settings = small_run(
        loop.out / "oreo",
        loop.config.seed,
        num_train_epochs=loop.config.epochs,
        learning_rate=5e-4,
        value_learning_rate=2e-3,
        value_warmup_steps=loop.config.value_warmup_steps,
        beta=0.03,
        kl_coef=0.003,
    )
    return loop.train(OREOConfig(**settings), episodes)


def _judge_value(loop: Loop, policy: Any, value: Any) -> None:
    """Evaluate V on fresh samples of the SFT policy to test problems: ranking and localisation."""
    config = loop.config
    with loop.watch.phase("judge the value function"):
        episodes = loop.sample(policy, "test", config.value_prompts, config.seed)
        problems = loop.task.problems("test", config.value_prompts, config.seed)
        scored = score(value, loop.tokenizer, episodes, loop.rule)
        common = {
            **loop.common("oreo"),
            "policy": "sft/policy",
            "value": "oreo/value",
            "width": config.num_generations,
        }
        write_value_files(loop.out, scored, loop.task, problems, common)
