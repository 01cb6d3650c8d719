"""The newest complete checkpoint of a run."""

from __future__ import annotations

import json
from pathlib import Path


def last_checkpoint(folder: str | Path) -> str | None:
    """Returns the newest complete `checkpoint-N` in a folder, or None.

    transformers writes `trainer_state.json` last: a checkpoint in which it is missing or truncated is incomplete.
    """
    numbered = [p for p in Path(folder).glob("checkpoint-*") if p.name.partition("-")[2].isdigit()]
    for path in sorted(numbered, key=lambda p: int(p.name.partition("-")[2]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            continue
        return str(path)
    return None
