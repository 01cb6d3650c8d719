"""V fitted to the games of OREO's policy: second.py GAMES OUT [--seeds 0 1 2], after run.py GAMES OUT

OREO's V is trained on the SFT policy's games. Here OREO's policy plays every training game five times, and a new V is
fitted to these games with the policy frozen. It then chooses among this policy's replies on unseen rooms. Rows go to
OUT/second.json, together with run.py's rows for one reply and for a random one of K; finished work is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from run import LEARNING, SETTINGS, VALUED, WIDTHS, evaluation, gather, playing, run_all
from start import learnt

from stepcredit.rollouts.collect import CollectConfig, collect

SPLIT = "valid_unseen"
AT_REST: dict[str, Any] = {
    **LEARNING,
    **SETTINGS["oreo"],
    "num_train_epochs": 3,
    "value_learning_rate": 5e-4,
    "value_warmup_steps": 10**6,
}
"""V is trained alone for more updates than there are, so the policy, which is also the reference, does not change."""


def one_seed(args: argparse.Namespace, seed: int) -> None:
    """Play the training games, fit V to them, and evaluate best of K by this V."""
    here, play = args.out / f"seed{seed}", playing(args.games, args.workers)
    policy, own = here / VALUED / "policy", here / "own"
    collect(CollectConfig(**play, model=str(policy), num_generations=5, seed=seed, output_dir=str(own / "episodes")))
    learnt(VALUED, policy, own / "episodes", own / "fitted", seed, AT_REST)
    value = str(own / "fitted" / "value")
    how = {**play, "split": SPLIT, "search": "best-of", "value_model": value}
    run_all(evaluation(own, policy, VALUED, seed, **how, width=k) for k in args.widths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS, help="replies per turn of which one is chosen")
    parser.add_argument("--workers", type=int, help="environment processes; default: one per processor")
    args = parser.parse_args()
    for seed in args.seeds:
        one_seed(args, seed)
    of_run = (f"evaluate-{VALUED}-{SPLIT}-{how}" for how in ("sample1", "random*"))
    gather(args.out, "second.json", "own/evaluate-*", *of_run)


if __name__ == "__main__":
    main()
