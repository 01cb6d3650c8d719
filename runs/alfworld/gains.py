"""Gain from choosing replies by V, per game: gains.py OUT NAME METHOD TEMPERATURE, after replies.py GAMES OUT NAME

Every search played the same games, so searches are compared game by game and the difficulty of a game cancels.
Writes OUT/NAME-gains.json: differences in games won with 95% bootstrap intervals over games, all seeds together. The
first rows compare the most valued of K replies with a random one of K, for each K and for all K together. The last two
compare the most valued of the largest K with a single reply: with the evaluation that drew one reply, and with that one
and all random replies of K, each of which is a single reply as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepcredit.episodes.store import load_episodes
from stepcredit.files import write_json
from stepcredit.metrics.paired import paired_difference

Won = dict[tuple[int, str], float]
"""(seed, game) → whether it was won."""


def won(out: Path, folder: str) -> Won:
    """The games won and lost in the evaluations with this folder name, over all seeds."""
    found: Won = {}
    for evaluation in sorted(out.glob(f"seed*/{folder}")):
        seed = int(evaluation.relative_to(out).parts[0].removeprefix("seed"))
        for shards in {file.parent for file in evaluation.rglob("episodes-*.parquet")}:
            found |= {(seed, e.prompt_id): float(e.reward == 1) for e in load_episodes(shards)}
    return found


def gain(name: str, pairs: Sequence[tuple[Won, Won]]) -> dict[str, Any]:
    """A result row: how many more games the first of each pair wins."""
    rows = [(a[key], b[key], key[1]) for a, b in pairs for key in sorted(a)]
    more, fewer, games = (np.array(column) for column in zip(*rows, strict=True))
    estimate = paired_difference(more, fewer, games)
    return {"of": name, **estimate._asdict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("method")
    parser.add_argument("temperature", type=float)
    parser.add_argument("--best_of", type=int, default=5)
    args = parser.parse_args()
    ways = f"{args.name}-at-{args.temperature}/evaluate-{args.method}-valid_unseen-"
    widths = range(2, args.best_of + 1)
    by_k = {k: (won(args.out, f"{ways}best-of{k}"), won(args.out, f"{ways}random{k}")) for k in widths}
    one = won(args.out, f"{ways}sample1")
    most = by_k[args.best_of][0]
    plain = [one, *(any_of for _, any_of in by_k.values())]  # any of K is one reply, drawn once more
    rows = [gain(f"the most valued of {k} over any of them", [pair]) for k, pair in by_k.items()]
    rows.append(gain(f"likewise, K = 2 to {args.best_of} together", list(by_k.values())))
    rows.append(gain(f"the most valued of {args.best_of} over one reply, played once", [(most, one)]))
    rows.append(
        gain(f"the most valued of {args.best_of} over one reply, all {len(plain)} times", [(most, p) for p in plain])
    )
    write_json(args.out / f"{args.name}-gains.json", rows)


if __name__ == "__main__":
    main()
