"""Shares of turns that change nothing: turns.py OUT, after run.py GAMES OUT.

Reads the conversations of every evaluation of run.py and writes OUT/turns.json: a row for each policy, split, search, K
and seed, with the shares of idle turns (look, inventory, examine) and of turns without effect ("in vain"), by verb. The
verb is found by a pattern in the policy's reply; a reply without a command counts as other.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import load_episodes
from stepcredit.files import write_json
from stepcredit.results.row_files import read_rows
from stepcredit.results.schema import AccuracyRow

IDLE = ("look", "inventory", "examine")
IN_VAIN = "Nothing happens."
COMMAND = re.compile(r"Action: (\w+)")
NAMES = ("method", "split", "search", "width", "temperature", "seed")
KINDS = ("idle", "go in vain", "take in vain", "other in vain")


def kinds(episode: Episode) -> Iterator[str]:
    """The kind of each turn."""
    assert not isinstance(episode.completion, str)
    said = [str(message["content"]) for message in episode.completion]
    for reply, answer in zip(said[::2], [*said[1::2], ""], strict=False):
        found = COMMAND.search(reply)
        verb = found[1] if found else ""
        if verb in IDLE:
            yield "idle"
        elif IN_VAIN in answer:
            yield f"{verb if verb in ('go', 'take') else 'other'} in vain"
        else:
            yield "useful"


def shares(responses: Path) -> dict[str, float]:
    """The share of each kind in all turns of an evaluation."""
    folders = {shard.parent for shard in responses.rglob("episodes-*.parquet")}
    counts = Counter(kind for folder in folders for episode in load_episodes(folder) for kind in kinds(episode))
    return {kind: counts[kind] / counts.total() for kind in KINDS}


def row(evaluation: Path) -> dict[str, Any]:
    """A result row: the settings and the shares of one evaluation."""
    (result,) = read_rows(evaluation / "results.json", AccuracyRow)
    names = {name: told for name in NAMES if (told := getattr(result, name)) is not None}
    return {**names, **shares(evaluation / "responses")}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    found = sorted(file for under in ("", "at-*/") for file in out.glob(f"seed*/{under}evaluate-*/results.json"))
    write_json(out / "turns.json", [row(file.parent) for file in found])
