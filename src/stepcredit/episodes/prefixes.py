"""Shared prefixes: the trajectories of a batch without the part of their prompts that several of them share.

The K responses to a prompt have the same first tokens. A batch holds each such prefix once, and of every trajectory
what follows it. The prefix is the prompt without its last token, because the state of the first action is read from the
output at that token:

    ids        [ p0  p1  p2 | a0  a1  E ]    prompt p0 p1 p2
    prefix     [ p0  p1 ]
    row                [ p2   a0  a1  E ]    all states of actions are in the row

The functions of `episodes.alignment` apply to the rows as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stepcredit.episodes.alignment import Trajectory, collate


def prefix_length(trajectory: Trajectory) -> int:
    """Returns the number of tokens before the last token of the prompt."""
    return max(trajectory.prompt_length - 1, 0)


def after_prefix(trajectory: Trajectory) -> Trajectory:
    """Returns a trajectory from the last token of its prompt on."""
    start = prefix_length(trajectory)
    behavior = trajectory.behavior_log_prob
    return replace(
        trajectory,
        ids=trajectory.ids[start:],
        action_mask=trajectory.action_mask[start:],
        step_id=trajectory.step_id[start:],
        reward=trajectory.reward[start:],
        behavior_log_prob=None if behavior is None else behavior[start:],
    )


def collate_shared(trajectories: Sequence[Trajectory], pad_token_id: int) -> dict[str, Any]:
    """Collates trajectories with shared prefixes.

    Returns:
        The fields of an `episodes.alignment.Batch` of the rows after the prefixes, and
        `prefix`: `input_ids` and `attention_mask` [P, L] of the P distinct prefixes, padded on the right;
        `prefix_row` [B]: the prefix of each row.
    """
    prefixes: dict[bytes, int] = {}
    ids: list[NDArray[np.int32]] = []
    rows = []
    for trajectory in trajectories:
        prefix = trajectory.ids[: prefix_length(trajectory)]
        row = prefixes.setdefault(prefix.tobytes(), len(prefixes))
        if row == len(ids):
            ids.append(prefix)
        rows.append(row)
    input_ids = np.full((len(ids), max(len(prefix) for prefix in ids)), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, prefix in enumerate(ids):
        input_ids[row, : len(prefix)] = prefix
        attention_mask[row, : len(prefix)] = 1
    return {
        **collate([after_prefix(t) for t in trajectories], pad_token_id).to_dict(),
        "prefix": {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)},
        "prefix_row": torch.tensor(rows),
    }
