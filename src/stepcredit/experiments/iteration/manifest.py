"""Manifest of a round: what went in, what came out, and a hash of every file, so that it can be checked or made again.

The hashes of a folder are listed per file; of collected episodes, per work unit, whose shard has the same bytes however
often the collection was interrupted. Paths inside the folder of the iteration are relative to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from stepcredit.episodes.store import units_of
from stepcredit.errors import InputError
from stepcredit.files import read_manifest
from stepcredit.hashes import file_hash, folder_hashes

MANIFEST = "manifest.json"
TIMES = "seconds"
"""The only entry of a manifest that differs when the round is made again."""
_NAMES = ("round", "settings", "seeds", "inputs", "outputs", "counts", "accuracy", "versions", TIMES)

Described = dict[str, Any]
"""Path and hashes of a model or of a folder of episodes."""


def read_round(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest of a round; None if the round is not finished.

    Raises:
        InputError: it is damaged.
    """
    path = folder / MANIFEST
    return read_manifest(path, _NAMES) if path.exists() else None


def model_files(model: str, out: Path) -> Described:
    """Describes a model: a folder, a file, or a name on the hub, whose files are those in the cache."""
    path = Path(model)
    if path.exists():
        return {"path": _relative(path, out), "files": folder_hashes(path)}
    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:  # no name on the hub; loading it will say so
        cached = None
    if not isinstance(cached, str):
        return {"path": model, "hub": None, "files": {}}
    return {"path": model, "hub": Path(cached).parent.name, "files": folder_hashes(Path(cached).parent)}


def episode_files(folder: Path, out: Path) -> Described:
    """Describes a folder of collected episodes."""
    shards = sorted(units_of(folder).items(), key=lambda unit: int(unit[0].partition("-")[0]))
    return {"path": _relative(folder, out), "units": {unit: file_hash(shard) for unit, shard in shards}}


def changed_files(manifest: Mapping[str, Any], out: Path, may_be_gone: bool = False) -> Iterator[str]:
    """Yields the files of a round that are not what its manifest says, each with the reason.

    Args:
        manifest: the manifest.
        out: folder of the iteration.
        may_be_gone: whether models that were made by rounds may have been removed.
    """
    for described in _described(manifest):
        path = described["path"]
        place = Path(path) if "hub" in described else out / path
        may_be_missing = may_be_gone and "files" in described and not Path(path).is_absolute()
        kind = "units" if "units" in described else "files"
        now = episode_files(place, out) if kind == "units" else model_files(str(place), out)
        kept, found = described[kind], now[kind]
        for name in sorted({*kept, *found}):
            what = "missing" if name not in found else "new" if name not in kept else "changed"
            may_be_new = "hub" in described  # other programs download other files of it
            if kept.get(name) != found.get(name) and not (
                (what == "missing" and may_be_missing) or (what == "new" and may_be_new)
            ):
                yield f"{place / name} is {what}"


def check_round(manifest: Mapping[str, Any], out: Path, may_be_gone: bool = False) -> None:
    """Checks the files of a round.

    Raises:
        InputError: a file has changed since the manifest was written.
    """
    changed = next(changed_files(manifest, out, may_be_gone), None)
    if changed is not None:
        raise InputError(f"{changed} since round {manifest['round']} was made; restore it, or choose another "
                         "--output_dir", str(out))  # fmt: skip


def _described(manifest: Mapping[str, Any]) -> Iterator[Described]:
    for part in (manifest["inputs"], manifest["outputs"]):
        for value in part.values():
            yield from value if isinstance(value, list) else [value] if value is not None else []


def _relative(path: Path, out: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(out.absolute())) if path.is_relative_to(out.absolute()) else str(path)
