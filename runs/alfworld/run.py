"""Offline learning on built ALFWorld games: run.py GAMES OUT [--seeds 0 1 2] [--splits …] [--methods …]

GAMES is the output of `stepcredit alfworld build --output_dir GAMES --train 480 --valid_seen 100 --valid_unseen 100`.
The base model is a small Llama trained from scratch on demonstrations of mixed quality (start.py). For each seed it is
fine-tuned on demonstrations, plays every training game five times, and is trained on these episodes by each method. All
policies are evaluated on both splits. Rows go to OUT/results.json; finished work is kept in OUT and not repeated.
With --pretrained a pretrained model takes the place of the base model; with --jobs several trainings and evaluations
run side by side. Both are meant for a GPU. --widths are the numbers of replies per turn of which one is chosen.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from accelerate.utils.memory import clear_device_cache
from start import LESSONS, SIZE, TEXTS, learnt, start

from stepcredit.evaluation.evaluate import EvaluateConfig, evaluate
from stepcredit.experiments.variants import variant_of
from stepcredit.files import write_json
from stepcredit.processes import worker_pool
from stepcredit.results.provenance import versions
from stepcredit.results.row_files import read_rows, write_rows
from stepcredit.results.schema import AccuracyRow
from stepcredit.rollouts.collect import CollectConfig, collect
from stepcredit.rollouts.demonstrate import DemonstrateConfig, demonstrate

STYLE, TURNS = "think", 16
CAREFUL, CARELESS = {"careless": 0.1}, {"careless": 0.9}
"""Faults of the demonstrators that the base model is trained on. SFT uses others (--careless, --distracted), who all
have the same degree of faults, so that won and lost games differ by single steps and not by who played."""
SFT: dict[str, Any] = {"learning_rate": 2e-4, "num_train_epochs": 1, "warmup_steps": 0.05, "truncated": "zero"}
# A game that reaches the turn limit is lost: reward 0, as in the paper.
LEARNING: dict[str, Any] = {"truncated": "zero", "num_train_epochs": 1, "gradient_accumulation_steps": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "rft": {"learning_rate": 3e-4, "num_train_epochs": 3},
    "dpo": {"learning_rate": 2e-5, "beta": 0.1, "max_pairs_per_prompt": 2},
    "oreo": {
        "learning_rate": 3e-4,
        "value_learning_rate": 3e-4,
        "value_warmup_steps": 75,
        "num_train_epochs": 2,
        "beta": 0.03,
        "kl_coef": 0.02,
        "normalizer": 24,
    },
}
PRETRAINED: dict[str, dict[str, Any]] = {
    "play": {"batch_size": 512, "dtype": "bfloat16"},
    "all": {"max_length": 2048, "recompute_activations": True, "bf16": True},
    "sft": {"learning_rate": 1e-4},
    "offline": {"train_layers": 6, "activation_dtype": "bfloat16"},
    "rft": {"learning_rate": 1e-4},
    "dpo": {"learning_rate": 2e-5},
    "oreo": {"learning_rate": 2e-5, "value_learning_rate": 3e-4},
}
"""What differs for a pretrained model (`--pretrained`): in play, in all trainings, in SFT, after it, and by method.
Texts are longer, more games are played at a time, the learning rates are those that were chosen on GSM8K (runs/gsm8k),
and after SFT of all layers the last six are trained, as there."""
STARTED = Path(__file__).parent / "started"
"""The base model made by start.py. It takes forty minutes to train, so it is kept here for further seeds."""
WIDTHS = (2, 3, 4, 5)
"""Replies per turn of which one is chosen, beside one reply."""
VALUED = "oreo-step"
"""The method whose V chooses among replies. One reply is one action, as V is read once per reply."""
REPLYING, SEARCHES = (VALUED, "sft"), ("best-of", "random")
"""The methods whose policies draw the replies, and how one is chosen: the most valued of K, or a random one of K."""
COOL = 0.3
"""K replies are drawn at temperature 1 and at this temperature, which was chosen on other games (replies.py)."""


def demonstrations(games: Path, out: Path, shares: dict[str, float]) -> Path:
    """Episodes of demonstrators who all have the same degree of faults, the same for all seeds."""
    folder = out / "-".join(["demonstrations", *(f"{name}-{share}" for name, share in shares.items())])
    asked: dict[str, Any] = {"prompt_style": STYLE, "num_generations": 4, "max_turns": TURNS, **shares}
    demonstrate(DemonstrateConfig(output_dir=str(folder), data=str(games), **asked))
    return folder


def playing(games: Path, workers: int | None) -> dict[str, Any]:
    """How the games are played, both in collection and in evaluation."""
    return {
        "task": "alfworld",
        "data": str(games),
        "prompt_style": STYLE,
        "max_turns": TURNS,
        "max_new_tokens": 32,
        "batch_size": 128,
        "workers": workers,
    }


@dataclass(frozen=True)
class Piece:
    """A training or an evaluation, which writes `run.json` into its folder when it is done."""

    out: Path
    make: Callable[[], Any]
    then: tuple[Piece, ...] = ()
    """Pieces that need this one."""


def evaluation(here: Path, policy: Path, method: str, seed: int, **given: Any) -> Piece:
    """The evaluation of one policy on one split."""
    out = here / "-".join(["evaluate", method, given["split"], f"{given['search']}{given.get('width', 1)}"])
    asked = EvaluateConfig(model=str(policy), method=method, output_dir=str(out), seed=seed, **given)
    return Piece(out, partial(evaluate, asked))


def run_all(pieces: Iterable[Piece], jobs: int = 1) -> None:
    """Make the pieces that are not there, in order, or so many at a time in worker processes; each once.

    One that fails ends the run; those that are done are there when it is run again.
    """
    queue = {piece.out: piece for piece in pieces}
    if jobs == 1:
        for piece in queue.values():
            made(piece)
            run_all(piece.then)
        return
    with worker_pool(jobs) as pool:
        running = {pool.submit(made, piece): piece for piece in queue.values()}
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                piece = running.pop(done)
                done.result()
                running |= {pool.submit(made, after): after for after in piece.then}


def made(piece: Piece) -> None:
    """Make a piece unless it is there, and give the memory of the device back."""
    if not (piece.out / "run.json").exists():
        piece.make()
        clear_device_cache(garbage_collection=True)


def several(
    trained: Path,
    here: Path,
    seed: int,
    widths: Sequence[int],
    *,
    methods: Sequence[str] = REPLYING,
    searches: Sequence[str] = SEARCHES,
    **given: Any,
) -> list[Piece]:
    """Evaluations with one reply per turn, and one of K for each K of `widths`, for the policies in `trained`."""
    value = str(trained / VALUED / "value")
    pieces = []
    for method in methods:
        policy = trained / method / "policy"
        pieces.append(evaluation(here, policy, method, seed, search="sample", **given))
        for k, search in product(widths, searches):
            pieces.append(evaluation(here, policy, method, seed, search=search, width=k, value_model=value, **given))
    return pieces


def faults(args: argparse.Namespace) -> dict[str, float]:
    """Faults of the demonstrators that SFT learns from."""
    return {"careless": args.careless, "distracted": args.distracted}


def begun(args: argparse.Namespace) -> Path:
    """The base model, from which all seeds start."""
    if args.pretrained or args.start:
        return Path(args.pretrained or args.start)
    careful, careless = (demonstrations(args.games, args.out, shares) for shares in (CAREFUL, CARELESS))
    return start(careful, careless, args.out / "start")


def training_settings(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """The training settings of a method."""
    more = PRETRAINED if args.pretrained else {}
    if method == "sft":
        return {**SFT, **more.get("all", {}), **more.get("sft", {})}
    kind = variant_of(method).method
    own = {**LEARNING, **SETTINGS[kind], **SETTINGS.get(method, {})}
    return {**own, **more.get("all", {}), **more.get("offline", {}), **more.get(kind, {})}


def one_seed(args: argparse.Namespace, seed: int) -> None:
    """Run one seed: training, every policy on every split, and several replies per turn on the first split."""
    here, base, play = args.out / f"seed{seed}", begun(args), playing(args.games, args.workers)
    play |= PRETRAINED["play"] if args.pretrained else {}
    policies = {"base": base, **{method: here / method / "policy" for method in ("sft", *args.methods)}}

    def training(method: str, start: Path, episodes: Path) -> Piece:
        make = partial(learnt, method, start, episodes, here / method, seed, training_settings(args, method))
        return Piece(here / method, make, () if method == "sft" else evaluations(method))

    def evaluations(method: str) -> tuple[Piece, ...]:
        given = [{**play, "split": split, "search": search} for split in args.splits for search in ("greedy", "sample")]
        return tuple(evaluation(here, policies[method], method, seed, **each) for each in given)

    run_all([training("sft", base, demonstrations(args.games, args.out, faults(args)))])
    played, sft = here / "episodes", policies["sft"]
    alone = {**play, "workers": args.jobs * args.workers}
    collect(CollectConfig(**alone, model=str(sft), num_generations=5, seed=seed, output_dir=str(played)))
    learning = [training(method, sft, played) for method in args.methods]
    run_all([*learning, *evaluations("base"), *evaluations("sft")], args.jobs)
    if VALUED in policies:
        how = {**play, "split": args.splits[0]}
        for place, temperature in ((here, 1.0), (here / f"at-{COOL}", COOL)):
            run_all(several(here, place, seed, args.widths, **how, temperature=temperature), args.jobs)


def gather(out: Path, into: str, *evaluations: str) -> None:
    """Write all rows of these evaluations to one file, each once, with folder names instead of absolute paths."""
    rows: dict[str, AccuracyRow] = {}
    for file in sorted(file for of in evaluations for file in out.glob(f"seed*/{of}/results.json")):
        for row in read_rows(file, AccuracyRow):
            names = {name: short(Path(path)) for name in ("policy", "value") if (path := getattr(row, name))}
            rows[row.key(without=("policy", "value"))] = replace(row, **names)
    write_rows(out / into, list(rows.values()))


def short(model: Path) -> str:
    """The name of a model: of its training if it was trained here."""
    return model.parent.name if model.name in ("policy", "value") else model.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=["rft", "dpo", VALUED])
    parser.add_argument("--splits", nargs="*", default=["valid_unseen", "valid_seen"])
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS, help="replies per turn of which one is chosen")
    parser.add_argument("--careless", type=float, default=0.1, help="degree for the demonstrators of SFT")
    parser.add_argument("--distracted", type=float, default=0.3, help="share of places at which they lose track")
    parser.add_argument("--start", default=str(STARTED), help="the base model; '' trains a new one (start.py)")
    parser.add_argument("--pretrained", help="a pretrained model with a chat template as the base model, on a GPU")
    parser.add_argument("--workers", type=int, help="processes for the games of a job; default: an even share")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings and evaluations at a time, after SFT and its games"
    )
    parser.add_argument("--summarise", action="store_true", help="only gather the rows that are there")
    args = parser.parse_args()
    args.workers = args.workers or max(1, (os.cpu_count() or 1) // args.jobs)
    for seed in [] if args.summarise else args.seeds:
        one_seed(args, seed)
    gather(args.out, "results.json", "evaluate-*")
    likeliest = (f"evaluate-{method}-{args.splits[0]}-greedy1" for method in REPLYING)
    gather(args.out, "cool.json", f"at-{COOL}/evaluate-*", *likeliest)
    built = json.loads((args.games / "built.json").read_text(encoding="utf-8"))
    about = {k: v for k, v in built.items() if k != "output_dir"}
    started = {
        "size": vars(SIZE),
        "texts": TEXTS,
        "demonstrators": [CAREFUL, CARELESS],
        **{name: vars(lesson) for name, lesson in LESSONS.items()},
    }
    settings = {
        "style": STYLE,
        "turns": TURNS,
        **({} if args.pretrained else {"start": started}),
        "demonstrators": faults(args),
        "sft": SFT,
        "learning": LEARNING,
        "methods": SETTINGS,
        **({"pretrained": {"model": Path(args.pretrained).name, **PRETRAINED}} if args.pretrained else {}),
        "cool": COOL,
    }
    trained_with = json.loads((args.out / f"seed{args.seeds[0]}" / "sft" / "run.json").read_text(encoding="utf-8"))
    made_with = {name: trained_with[name] for name in versions()}
    write_json(args.out / "run.json", {"built": about, **settings, **made_with})


if __name__ == "__main__":
    main()
