"""The `stepcredit alfworld build` command: its settings and implementation."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from stepcredit.errors import InputError
from stepcredit.files import holds_something, locked, read_manifest, write_json
from stepcredit.flags import flag
from stepcredit.progress import track
from stepcredit.settings import Limits, Settings
from stepcredit.tasks.alfworld.alfworld_task import GAMES, SPLITS
from stepcredit.tasks.alfworld.build import build_games, game_specs
from stepcredit.tasks.alfworld.installation import shipped
from stepcredit.tasks.alfworld.scenario import FAMILIES


@dataclass
class BuildConfig(Settings):
    """Build ALFWorld games from the floor plans that the alfworld package ships: train, valid_seen (the same rooms,
    other placements) and valid_unseen (other floor plans), all six families in turn, each game won on the engine
    before it counts. Needs the extra: pip install 'stepcredit[alfworld]'. Run it again to go on where it stopped.
    Scores on built games are not comparable with published scores."""

    output_dir: Annotated[str, Limits(not_empty=True)] = field(
        metadata=flag("output_dir", "Afterwards it is --data, or $ALFWORLD_DATA.")
    )
    train: Annotated[int, Limits(at_least=0)] = field(
        default=600, metadata={"help": "Games of the train split; a multiple of six is balanced."}
    )
    valid_seen: Annotated[int, Limits(at_least=0)] = field(default=120, metadata={"help": "Games of valid_seen."})
    valid_unseen: Annotated[int, Limits(at_least=0)] = field(default=120, metadata={"help": "Games of valid_unseen."})
    seed: Annotated[int, Limits(at_least=0, at_most=2**32 - 1)] = field(default=0, metadata=flag("seed"))
    workers: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata=flag("workers", default="one per processor")
    )
    dry_run: bool = field(default=False, metadata=flag("dry_run"))


def build(config: BuildConfig) -> dict[str, Any]:
    """Builds the missing games and returns counts, also by family (see `BuildConfig`).

    Raises:
        InputError: the extra is missing, a count is negative, or the folder was built with another seed or is in use.
    """
    counts = {split: getattr(config, split) for split in SPLITS}
    out = Path(config.output_dir)
    specs = game_specs(out, counts, config.seed)
    if config.dry_run:
        return {"games": len(specs), **{split: count for split, count in counts.items() if count}}
    shipped("data")  # raises without the extra, before anything is written
    with locked(out, "stepcredit alfworld build"):
        _keep_to_one_seed(out, config)
        games = list(
            track(build_games(specs, config.workers or os.cpu_count() or 1), "building games", len(specs), "games")
        )
        families = Counter(w.family for w in specs)
        summary = {
            "games": len(games),
            "there before": sum(g.was_there for g in games),
            "rejected draws": sum(g.rejected for g in games),
            **{family: families[family] for family in FAMILIES if families[family]},
        }
        write_json(out / "built.json", {**asdict(config), **summary})
    return summary


def _keep_to_one_seed(out: Path, config: BuildConfig) -> None:
    """Checks that games are added with the same seed, because the seed is part of a game's path."""
    manifest = out / "built.json"
    has_games = any(out.glob(f"{GAMES}/*/*/*/game.tw-pddl"))
    if has_games and manifest.exists() and read_manifest(manifest).get("seed") != config.seed:
        raise InputError("was built with another seed; choose another --output_dir", str(out))
    if not manifest.exists() and holds_something(out):
        raise InputError("is not empty and was not built here; choose another --output_dir", str(out))
    write_json(manifest, asdict(config))
