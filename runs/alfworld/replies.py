"""K replies per turn on other games: replies.py GAMES OUT NAME [--temperatures …] [--methods …], after run.py … OUT

The policies of OUT play the unseen rooms of GAMES: greedily, and at several temperatures with one reply per turn, the
most valued of K and a random one of K. Rows go to OUT/NAME.json; finished work is not repeated. Two result files were
made like this:

    stepcredit alfworld build --output_dir TRIAL --train 0 --valid_seen 0 --valid_unseen 60 --seed 7
    replies.py TRIAL OUT temperatures --temperatures 0.3 0.5 0.7 1 --searches best-of
    stepcredit alfworld build --output_dir WIDE --train 0 --valid_seen 0 --valid_unseen 300 --seed 11
    replies.py WIDE OUT wide --methods sft

The first chose the second temperature of run.py (COOL). The second has more games, for smaller standard errors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from run import COOL, REPLYING, SEARCHES, WIDTHS, evaluation, gather, playing, run_all, several

SPLIT = "valid_unseen"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[COOL])
    parser.add_argument("--methods", nargs="+", default=REPLYING, help="methods whose policies draw the replies")
    parser.add_argument("--searches", nargs="+", default=SEARCHES, help="how one of K replies is chosen")
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS, help="replies per turn of which one is chosen")
    parser.add_argument("--workers", type=int, help="environment processes; default: one per processor")
    args = parser.parse_args()
    play = {**playing(args.games, args.workers), "split": SPLIT}
    for seed in args.seeds:
        here = args.out / f"seed{seed}"
        for method in args.methods:
            policy = here / method / "policy"
            run_all([evaluation(here / f"{args.name}-at-0", policy, method, seed, **play, search="greedy")])
        for at in args.temperatures:
            place, how = here / f"{args.name}-at-{at}", {"methods": args.methods, "searches": args.searches}
            run_all(several(here, place, seed, args.widths, **how, **play, temperature=at))
    gather(args.out, f"{args.name}.json", f"{args.name}-at-*/evaluate-*")


if __name__ == "__main__":
    main()
