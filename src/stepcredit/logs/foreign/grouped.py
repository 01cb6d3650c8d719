"""NeMo-RL's groups: a `context` and `completions`, each with its own reward, in one row.

Both the preference format (`rank`, `completion`, optional `reward`) and the grouped one of OAPL (`completion`,
`reward`, `reference_logprob`). A rank is no reward: completions without a reward are bad rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepcredit.errors import InputError
from stepcredit.logs.columns import shown


def is_group(row: Mapping[str, Any]) -> bool:
    """Whether a row has a context and a list of completions that are not texts."""
    completions = row.get("completions")
    return "context" in row and "prompt" not in row and isinstance(completions, list) and "labels" not in row


def from_group(row: Mapping[str, Any]) -> list[dict[str, Any] | InputError]:
    """One row for each completion, with its other keys and those of the group; or its error."""
    shared = {name: value for name, value in row.items() if name not in ("context", "completions")}
    if not row["completions"]:
        return [InputError("holds no completion", "completions")]
    return [
        {**shared, "prompt": row["context"], **item}
        if isinstance(item, Mapping) and "completion" in item
        else InputError(f"must be an object with a completion, not {shown(item)}", f"completions[{k}]")
        for k, item in enumerate(row["completions"])
    ]
