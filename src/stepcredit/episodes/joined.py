"""Several folders of episodes read one after another, as one data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from stepcredit.episodes.delimiters import step_rule
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import EpisodeStore, load_episodes
from stepcredit.errors import InputError, quoted


def load_folders(folders: Sequence[str]) -> list[EpisodeStore]:
    """Opens folders of episodes that are trained on together.

    Responses with one prompt id belong to one prompt in whichever folder they are: limits per prompt count them
    together, and pairs are drawn across folders. Two folders may hold equal responses, which two rounds of sampling
    may well give, but not the same shard.

    Raises:
        InputError: a folder cannot be read or is given twice, two folders hold the same shard, or a prompt id is that
            of another prompt in another folder.
    """
    stores = [load_episodes(folder) for folder in folders]
    if len(stores) > 1:
        _check_shards(stores)
        _check_prompts(stores)
    return stores


def joint_step_rule(delimiters: list[str] | None, folders: Sequence[str]) -> StepRule:
    """Returns the step rule of folders that are trained on together (see `step_rule`).

    Raises:
        InputError: no delimiters are given, and those of two folders differ.
    """
    first, *others = ((folder, step_rule(delimiters, Path(folder))) for folder in folders)
    for folder, rule in others:
        if rule != first[1]:
            raise InputError(f"its steps end at {_listed(rule)}, those of {first[0]} at {_listed(first[1])}; give "
                             "--step_delimiters", folder)  # fmt: skip
    return first[1]


def _listed(rule: StepRule) -> str:
    return ", ".join(map(repr, rule.delimiters)) or "no delimiter"


def _check_shards(stores: Sequence[EpisodeStore]) -> None:
    """Check that no shard is there twice: equal episodes give equal bytes."""
    seen: dict[tuple[int, str], Path] = {}
    sizes = [shard.stat().st_size for store in stores for shard in store.shards]
    for store in stores:
        for shard in store.shards:
            size = shard.stat().st_size
            digest = hashlib.sha256(shard.read_bytes()).hexdigest() if sizes.count(size) > 1 else str(shard)
            first = seen.setdefault((size, digest), shard)
            if first is not shard and (first.parent != shard.parent or first == shard):
                raise InputError(f"holds the same episodes as {first}; give each folder once", str(shard))


def _check_prompts(stores: Sequence[EpisodeStore]) -> None:
    """Check that a prompt id stands for one prompt in all folders."""
    seen: dict[str, tuple[int, Path]] = {}
    for store in stores:
        for rows in store.rows(["prompt_id", "prompt"]):
            for prompt_id, prompt in zip(*rows.batch.to_pydict().values(), strict=True):
                first, folder = seen.setdefault(prompt_id, (hash(prompt), store.path))
                if first != hash(prompt) and folder != store.path:
                    raise InputError(f"prompt id {quoted(prompt_id)} is not the prompt that it is in {folder}; give "
                                     "prompts ids of their own, or one --prompt_style", str(store.path))  # fmt: skip
