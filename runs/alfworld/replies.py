"""K replies a turn on other games: replies.py GAMES OUT NAME [--temperatures …] [--methods …], after run.py … OUT

The policies of OUT play the unseen rooms of GAMES: greedily, and at several temperatures one reply a turn, the most
valued of K and any of K. Rows go to OUT/NAME.json; finished work is not done again. Two were made so:

    stepcredit alfworld build --output_dir TRIAL --train 0 --valid_seen 0 --valid_unseen 60 --seed 7
    replies.py TRIAL OUT temperatures --temperatures 0.3 0.5 0.7 1 --searches best-of
    stepcredit alfworld build --output_dir WIDE --train 0 --valid_seen 0 --valid_unseen 300 --seed 11
    replies.py WIDE OUT wide --methods sft

The first chose the temperature that is run.py's second one (COOL); the second has more games, for closer numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from run import BEST_OF, COOL, REPLYING, SEARCHES, gather, playing, scored, several

SPLIT = "valid_unseen"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[COOL])
    parser.add_argument("--methods", nargs="+", default=REPLYING, help="whose policies")
    parser.add_argument("--searches", nargs="+", default=SEARCHES, help="how one of K is chosen")
    parser.add_argument("--best_of", type=int, default=BEST_OF)
    parser.add_argument("--workers", type=int, help="environments' processes; default: one a processor")
    args = parser.parse_args()
    play = {**playing(args.games, args.workers), "split": SPLIT}
    for seed in args.seeds:
        here = args.out / f"seed{seed}"
        for method in args.methods:
            policy = here / method / "policy"
            scored(here / f"{args.name}-at-0", policy, method, seed, **play, search="greedy")
        for at in args.temperatures:
            place, how = here / f"{args.name}-at-{at}", {"methods": args.methods, "searches": args.searches}
            several(here, place, seed, args.best_of, **how, **play, temperature=at)
    gather(args.out, f"{args.name}.json", f"{args.name}-at-*/evaluate-*")


if __name__ == "__main__":
    main()
