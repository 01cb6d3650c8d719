"""Offline learning on built ALFWorld games: run.py GAMES OUT [--seeds 0 1 2] [--splits …] [--methods …]

GAMES is what `stepcredit alfworld build --out GAMES --train 480 --valid_seen 100 --valid_unseen 100` made. A small
Llama from nothing learns from what demonstrators of mixed quality did (start.py). For each seed it is fine-tuned on
them, plays every training game five times, and learns from these episodes by each method; all are evaluated on both
splits. Rows go to OUT/results.json; finished work is kept in OUT and not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from start import LESSONS, SIZE, learnt, start

from stepcredit.pipeline.alfworld import DemonstrateConfig, demonstrate
from stepcredit.pipeline.collect import CollectConfig, collect
from stepcredit.pipeline.evaluate import EvaluateConfig, evaluate
from stepcredit.pipeline.results import read_rows, versions, write_json
from stepcredit.pipeline.variants import variant_of

STYLE, TURNS = "think", 16
CAREFUL, CARELESS = 0.1, 0.9
SFT: dict[str, Any] = {"learning_rate": 5e-4, "num_train_epochs": 1, "warmup_steps": 0.05, "truncated": "zero"}
# A game that the turn limit ended is lost: reward 0, as in the paper.
LEARNING: dict[str, Any] = {"truncated": "zero", "num_train_epochs": 1, "gradient_accumulation_steps": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "rft": {"learning_rate": 3e-4, "num_train_epochs": 3},
    "dpo": {"learning_rate": 2e-5, "beta": 0.1, "max_pairs_per_prompt": 2},
    "oreo": {
        "learning_rate": 3e-4,
        "value_learning_rate": 1e-3,
        "value_warmup_steps": 30,
        "beta": 0.03,
        "kl_coef": 0.04,
        "normalizer": 24,
    },
}
BEST_OF = 5
VALUED = "oreo-step"
"""Whose V chooses among replies. One reply is one action, as V is read once a reply."""


def demonstrations(games: Path, out: Path, careless: float) -> Path:
    """Episodes of demonstrators who are all careless to one degree, the same for all seeds."""
    folder = out / f"demonstrations-{careless}"
    asked: dict[str, Any] = {"prompt_style": STYLE, "samples": 4, "max_turns": TURNS, "careless": careless}
    demonstrate(DemonstrateConfig(out=str(folder), data=str(games), **asked))
    return folder


def playing(games: Path) -> dict[str, Any]:
    """How the games are played, in collection and evaluation alike."""
    return {
        "task": "alfworld",
        "data": str(games),
        "prompt_style": STYLE,
        "max_turns": TURNS,
        "max_new_tokens": 32,
    }


def scored(games: Path, here: Path, policy: Path, method: str, split: str, seed: int, **given: Any) -> None:
    """Rows of one policy on one split, unless they are there."""
    out = here / f"evaluate-{method}-{split}-{given.get('search', 'all')}"
    if (out / "run.json").exists():
        return
    evaluate(
        EvaluateConfig(
            **playing(games),
            split=split,
            policy=str(policy),
            method=method,
            out=str(out),
            seed=seed,
            **given,
        )
    )


def one_seed(games: Path, out: Path, seed: int, methods: list[str], splits: list[str], best_of: int) -> None:
    here = out / f"seed{seed}"
    careful, careless = (demonstrations(games, out, degree) for degree in (CAREFUL, CARELESS))
    sft = learnt("sft", start(careful, careless, out / "start"), careless, here / "sft", seed, SFT)
    collect(
        CollectConfig(
            **playing(games),
            policy=str(sft),
            samples=5,
            seed=seed,
            out=str(here / "episodes"),
            batch_size=128,
        )
    )
    policies = {"sft": sft}
    for method in methods:
        settings = {**LEARNING, **SETTINGS[variant_of(method).method], **SETTINGS.get(method, {})}
        policies[method] = learnt(method, sft, here / "episodes", here / method, seed, settings)
    for split in splits:
        for method, policy in policies.items():
            scored(games, here, policy, method, split, seed, search="greedy")
            if method == VALUED and best_of > 1 and split == splits[0]:
                value = str(here / VALUED / "value")
                scored(games, here, policy, method, split, seed, search="all", width=best_of, value=value)
            else:
                scored(games, here, policy, method, split, seed, search="sample")


def gather(out: Path) -> None:
    """All rows in one file, each once; without the paths of one machine."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in sorted(out.glob("seed*/evaluate-*/results.json")):
        for row in read_rows(file):
            key = tuple(row[name] for name in ("method", "split", "search", "width", "seed"))
            rows[key] = {**row, **{k: v and Path(v).parent.name for k, v in row.items() if k in ("policy", "value")}}
    write_json(out / "results.json", list(rows.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=["rft", "dpo", VALUED])
    parser.add_argument("--splits", nargs="*", default=["valid_unseen", "valid_seen"])
    parser.add_argument("--best_of", type=int, default=BEST_OF)
    args = parser.parse_args()
    for seed in args.seeds:
        one_seed(args.games, args.out, seed, args.methods, args.splits, args.best_of)
    gather(args.out)
    built = json.loads((args.games / "built.json").read_text(encoding="utf-8"))
    about = {k: v for k, v in built.items() if k != "out"}
    started = {"size": vars(SIZE), **{name: vars(lesson) for name, lesson in LESSONS.items()}}
    settings = {"style": STYLE, "turns": TURNS, "start": started, "sft": SFT, "learning": LEARNING, "methods": SETTINGS}
    write_json(args.out / "run.json", {"built": about, **settings, **versions()})


if __name__ == "__main__":
    main()
