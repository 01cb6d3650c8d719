"""Conversion between episodes and the rows of a shard.

`format` tells whether `prompt` and `completion` are plain text ("text") or chat messages as JSON ("chat"); `tools` and
`metadata` are JSON; None is stored as null. Shards without the column `tools` have no tools.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepcredit.episodes.episode import Episode, Message, StopReason, Tokens
from stepcredit.errors import InputError
from stepcredit.verdict import Verdict

SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("format", pa.string()),
        ("reward", pa.float64()),
        ("verdict", pa.string()),
        ("stop_reason", pa.string()),
        ("prompt_id", pa.string()),
        ("sample", pa.int64()),
        ("steps", pa.list_(pa.string())),
        ("step_rewards", pa.list_(pa.float64())),
        ("ids", pa.list_(pa.int32())),
        ("action_mask", pa.list_(pa.bool_())),
        ("behavior_log_prob", pa.list_(pa.float32())),
        ("metadata", pa.string()),
        ("tools", pa.string()),
    ]
)
OPTIONAL = "tools"
"""A column that may be missing."""
_TOKEN_COLUMNS = ("ids", "action_mask", "behavior_log_prob")


def turns_as_text(turns: str | Sequence[Message]) -> str:
    """Returns a prompt or completion as one string: text unchanged, chat messages as canonical JSON.

    Raises:
        InputError: a message cannot be written as JSON.
    """
    return turns if isinstance(turns, str) else _as_json([dict(m) for m in turns], "messages")


_ENCODERS = {
    sort_keys: json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=sort_keys) for sort_keys in (True, False)
}


def _as_json(value: Any, field: str, *, sort_keys: bool = True) -> str:
    try:
        return _ENCODERS[sort_keys].encode(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot be stored as JSON: {error}", field) from error


def to_batch(episodes: Sequence[Episode]) -> Any:
    """Converts episodes into an Arrow record batch."""
    columns = _columns(episodes)
    try:
        return pa.record_batch([pa.array(columns[f.name], type=f.type) for f in SCHEMA], schema=SCHEMA)
    except UnicodeEncodeError as error:
        raise InputError(f"an episode holds text that is not valid Unicode ({error.reason})") from error


def _columns(episodes: Sequence[Episode]) -> dict[str, list[Any]]:
    if any(episode.outcome is not None for episode in episodes):
        raise InputError("an episode with moved rewards cannot be stored; store the original episode", "outcome")
    tokens = [episode.tokens for episode in episodes]
    return {
        "prompt": [turns_as_text(e.prompt) for e in episodes],
        "completion": [turns_as_text(e.completion) for e in episodes],
        "format": ["chat" if e.is_chat else "text" for e in episodes],
        "reward": [e.reward for e in episodes],
        "verdict": [e.verdict and str(e.verdict) for e in episodes],
        "stop_reason": [str(e.stop_reason) for e in episodes],
        "prompt_id": [e.prompt_id for e in episodes],
        "sample": [e.sample for e in episodes],
        "steps": [e.steps for e in episodes],
        "step_rewards": [e.step_rewards for e in episodes],
        "ids": [t and t.ids for t in tokens],
        "action_mask": [t and t.action_mask for t in tokens],
        "behavior_log_prob": [t and t.behavior_log_prob for t in tokens],
        "metadata": [_as_json(e.metadata, "metadata") for e in episodes],
        "tools": [None if e.tools is None else _as_json(e.tools, "tools", sort_keys=False) for e in episodes],
    }


def from_batch(rows: Any, episodes: list[Episode]) -> None:
    """Appends the episodes of a record batch to `episodes`, up to the first invalid row.

    Raises:
        TypeError, ValueError, KeyError: a row is not a valid episode.
    """
    plain = {name: rows.column(name).to_pylist() for name in SCHEMA.names if name not in _TOKEN_COLUMNS}
    arrays = {name: _as_arrays(rows.column(name)) for name in _TOKEN_COLUMNS}
    for k in range(rows.num_rows):
        ids, mask, log_prob = (arrays[name][k] for name in _TOKEN_COLUMNS)
        tokens = None if ids is None or mask is None else Tokens(ids, mask.astype(np.bool_), log_prob)
        episodes.append(_as_episode({name: column[k] for name, column in plain.items()}, tokens))


def _as_arrays(lists: Any) -> list[NDArray[Any] | None]:
    """Returns one array per row of a list column, None where null; copies, so that they are writable."""
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    rows: list[NDArray[Any] | None] = []
    offset = 0
    for length in lists.value_lengths().to_pylist():
        rows.append(None if length is None else flat[offset : offset + length].copy())
        offset += length or 0
    return rows


def _as_episode(row: dict[str, Any], tokens: Tokens | None) -> Episode:
    is_chat = {"text": False, "chat": True}[row["format"]]
    return Episode(
        prompt=json.loads(row["prompt"]) if is_chat else row["prompt"],
        completion=json.loads(row["completion"]) if is_chat else row["completion"],
        reward=row["reward"],
        prompt_id=row["prompt_id"],
        sample=row["sample"],
        step_rewards=None if row["step_rewards"] is None else tuple(row["step_rewards"]),
        steps=None if row["steps"] is None else tuple(row["steps"]),
        stop_reason=StopReason(row["stop_reason"]),
        verdict=None if row["verdict"] is None else Verdict(row["verdict"]),
        tokens=tokens,
        tools=None if row["tools"] is None else tuple(json.loads(row["tools"])),
        metadata=json.loads(row["metadata"]),
    )
