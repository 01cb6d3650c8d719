"""The stages of a round of iterative training: collect with the policy of the round before, train, evaluate.

Every stage resumes in its own folder, and what a finished one has counted is kept in `stages.json` until the manifest
of the round is written.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from stepcredit.episodes.store import load_episodes
from stepcredit.evaluation.evaluate import EvaluateConfig, evaluate
from stepcredit.experiments.iteration.manifest import MANIFEST, TIMES, episode_files, model_files
from stepcredit.experiments.recipe import split_settings
from stepcredit.files import read_json, read_manifest, write_json
from stepcredit.metrics.paired import paired_difference
from stepcredit.results.provenance import versions
from stepcredit.results.row_files import read_rows
from stepcredit.results.schema import AccuracyRow
from stepcredit.rollouts.collect import CollectConfig, collect
from stepcredit.rollouts.task_settings import HOW_ASKED
from stepcredit.training.methods import METHODS
from stepcredit.training.train import TrainConfig, train
from stepcredit.verdict import Verdict

STAGES = "stages.json"
GENERATING = ("task", "data", "prompt_style", "max_turns", "workers", "engine", "max_new_tokens", "temperature",
              "top_p", "top_k", "batch_size", "dtype", "chat_template", "merge_system_message",
              "trust_remote_code", *HOW_ASKED)  # fmt: skip
"""Settings of collection and of evaluation."""


def seeds_of(seed: int, number: int) -> dict[str, int]:
    """Returns the seeds of a round: those of its prompts and noise and of its training differ from round to round, and
    that of the evaluation does not, so that all rounds are evaluated on the same problems."""
    collection, training = np.random.SeedSequence([seed, number]).generate_state(2)
    return {"collect": int(collection), "train": int(training), "evaluate": seed}


@dataclass(frozen=True)
class Round:
    """A round of iterative training; round 0 is the evaluation of the start.

    Attributes:
        number: its number.
        config: the `IterateConfig`.
        settings: settings of `train` for the method.
        fixed: all settings that determine the round, for the manifest.
        splits: evaluated splits and their numbers of problems; the first one is for validation if `validates`.
        validates: whether there is validation.
    """

    number: int
    config: Any
    settings: dict[str, Any]
    fixed: dict[str, Any]
    splits: dict[str, int]
    validates: bool

    @property
    def folder(self) -> Path:
        """Folder of the round."""
        return self.of(self.number)

    def of(self, number: int) -> Path:
        """Returns the folder of a round."""
        return Path(self.config.output_dir) / f"round{number}"

    def policy(self, number: int) -> str:
        """Returns the policy after a round."""
        return str(self.of(number) / "train" / "policy") if number else self.config.model

    # ---- inputs -----------------------------------------------------------------------------------

    @property
    def reference(self) -> str | None:
        """The reference of the round; None if the method has none."""
        if not METHODS[self.config.method].needs_reference:
            return None
        return self.policy(0 if self.config.reference == "fixed" else self.number - 1)

    @property
    def value_start(self) -> str | None:
        """The value model that training starts from; None if it is made from the policy, or the method has none."""
        carried = METHODS[self.config.method].needs_value and self.config.value_init == "carried" and self.number > 1
        return str(self.of(self.number - 1) / "train" / "value") if carried else None

    @property
    def episodes(self) -> list[Path]:
        """Folders of the episodes to train on."""
        first = 1 if self.config.train_on == "accumulated" else self.number
        return [self.of(k) / "episodes" for k in range(first, self.number + 1)]

    # ---- stages -----------------------------------------------------------------------------------

    def stages(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Returns the stages by name, in order."""
        evaluations = {"evaluate": self._evaluate}
        return evaluations if self.number == 0 else {"collect": self._collect, "train": self._train, **evaluations}

    def finished(self) -> dict[str, Any]:
        """Returns the results of the finished stages of an unfinished round."""
        path = self.folder / STAGES
        return read_manifest(path) if path.exists() else {}

    def run(self, stage: str) -> None:
        """Runs a stage and records its result."""
        start = time.perf_counter()
        result = self.stages()[stage]()
        seconds = round(time.perf_counter() - start, 2)
        write_json(self.folder / STAGES, {**self.finished(), stage: {**result, TIMES: seconds}})

    def _collect(self) -> dict[str, Any]:
        c = self.config
        settings = {name: getattr(c, name) for name in (*GENERATING, "split", "limit", "num_generations", "balanced")}
        folder = self.folder / "episodes"
        counts = collect(CollectConfig(**settings, model=self.policy(self.number - 1), output_dir=str(folder),
                                       seed=seeds_of(c.seed, self.number)["collect"]))  # fmt: skip
        verdicts: Counter[str] = Counter()
        for episode in load_episodes(folder):
            verdicts["truncated" if episode.truncated else str(episode.verdict or Verdict.UNDECIDED)] += 1
        return {"prompts": counts["prompts"], "responses": counts["responses"], **dict(sorted(verdicts.items()))}

    def training(self) -> tuple[TrainConfig, Any]:
        """Returns the configs of `train`."""
        c, folder, seed = self.config, self.folder / "train", seeds_of(self.config.seed, self.number)["train"]
        ours, theirs = split_settings(self.settings)
        config = TrainConfig(
            model=self.policy(self.number - 1),
            episodes=[str(path) for path in self.episodes],
            value_model=self.value_start,
            ref_model=self.reference if c.reference == "fixed" else None,
            **ours,
        )
        same = {name: getattr(c, name) for name in ("chat_template", "merge_system_message", "trust_remote_code")}
        own = {"output_dir": str(folder), "seed": seed, "data_seed": seed}
        return config, METHODS[c.method].config(**{**own, **same, **theirs})

    def _train(self) -> dict[str, Any]:
        folder = self.folder / "train"
        if not (folder / "run.json").exists():
            train(*self.training())
        for left in (*folder.glob("checkpoint-*"), folder / "activations"):  # only of use to an interrupted run
            shutil.rmtree(left, ignore_errors=True)
        counts: dict[str, Any] = read_manifest(folder / "run.json", ("data",))["data"]
        return counts

    def _evaluate(self) -> dict[str, Any]:
        c = self.config
        for split, search, folder in self.evaluations():
            if not (folder / "run.json").exists():
                settings = {name: getattr(c, name) for name in GENERATING}
                evaluate(EvaluateConfig(**settings, model=self.policy(self.number), method=c.method, split=split,
                                        limit=self.splits[split], search=search, output_dir=str(folder),
                                        seed=c.seed))  # fmt: skip
        return {}

    def evaluations(self) -> list[tuple[str, str, Path]]:
        """Returns split, search and folder of every evaluation."""
        folder = self.folder / "evaluation"
        return [
            (split, search, folder / f"{split}-{search}") for split in self.splits for search in self.config.searches
        ]

    # ---- results ----------------------------------------------------------------------------------

    def rows(self) -> list[AccuracyRow]:
        """Returns the rows of the evaluations of a finished round."""
        return [row for _, _, folder in self.evaluations() for row in read_rows(folder / "results.json", AccuracyRow)]

    def validation(self) -> dict[str, float]:
        """Returns the share of right responses per validation problem, over all searches."""
        right: dict[str, list[bool]] = {}
        for split, _, folder in self.evaluations() if self.validates else ():
            if split == next(iter(self.splits)):
                for responses in _response_folders(folder):
                    for episode in load_episodes(responses):
                        right.setdefault(episode.prompt_id, []).append(episode.verdict is Verdict.RIGHT)
        return {prompt_id: fmean(found) for prompt_id, found in sorted(right.items())}

    def curve(self) -> list[dict[str, Any]]:
        """Returns the training curve."""
        read: Any = read_json(self.folder / "train" / "curves.json")
        return list(read[self.config.method])

    def write_manifest(self, gain: dict[str, Any] | None) -> None:
        """Writes the manifest of the round, which is then finished."""
        c, out, stages = self.config, Path(self.config.output_dir), self.finished()
        seconds = {name: result.pop(TIMES) for name, result in stages.items()}
        is_made = self.number > 0
        value = METHODS[c.method].needs_value and is_made
        models = {"policy": self.policy(max(0, self.number - 1)), "reference": self.reference if is_made else None,
                  "value_model": self.value_start}  # fmt: skip
        seen = [folder for _, _, evaluation in self.evaluations() for folder in _response_folders(evaluation)]
        trained = {"policy": "policy", **({"value_model": "value"} if value else {})} if is_made else {}
        manifest = {
            "round": self.number,
            "settings": self.fixed,
            "seeds": seeds_of(c.seed, self.number) if is_made else {"evaluate": c.seed},
            "inputs": {
                **{name: None if model is None else model_files(model, out) for name, model in models.items()},
                "episodes": [episode_files(folder, out) for folder in self.episodes if is_made],
            },
            "outputs": {
                "episodes": episode_files(self.folder / "episodes", out) if is_made else None,
                **{name: model_files(str(self.folder / "train" / part), out) for name, part in trained.items()},
                "responses": [episode_files(folder, out) for folder in seen],
            },
            "counts": {name: result for name, result in stages.items() if result},
            "accuracy": [
                {"split": row.split, "search": row.search, "n": row.n, "accuracy": row.accuracy, "stderr": row.stderr}
                for row in self.rows()
            ],
            "gain": gain,
            "versions": {**versions(), "threads": torch.get_num_threads()},
            TIMES: seconds,
        }
        write_json(self.folder / MANIFEST, manifest)
        (self.folder / STAGES).unlink(missing_ok=True)


def gain_of(now: dict[str, float], best: dict[str, float], best_round: int) -> dict[str, Any]:
    """Compares validation with the best round before: the difference on the same problems, its 95% interval over
    problems, and whether the round helped, that is, whether the difference is above 0."""
    found = paired_difference(list(now.values()), [best[name] for name in now])
    return {
        "against_round": best_round,
        "difference": round(found.estimate, 6),
        "low": round(found.low, 6),
        "high": round(found.high, 6),
        "helped": found.estimate > 0,
    }


def _response_folders(evaluation: Path) -> list[Path]:
    return sorted(path for path in (evaluation / "responses").iterdir() if path.is_dir())
