"""V of finished or half-finished responses, read where training read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stepcredit.episodes.alignment import Trajectory, at_states, collate
from stepcredit.models.actor_critic import values_at_positions


@torch.inference_mode()
def values_of(value_model: Any, trajectories: Sequence[Trajectory], batch_size: int = 64) -> list[NDArray[np.float32]]:
    """V(s_t) of every action of every trajectory: one array [T] each, over positions.

    Entry p is V of the state before the action at position p, NaN where p is not an action. V of a finished
    response is the entry of its end token. Trajectories are batched by length, and returned in their order.
    """
    order = sorted(range(len(trajectories)), key=lambda i: len(trajectories[i]))
    found: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)] * len(trajectories)
    was_training = value_model.training
    value_model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate([trajectories[i] for i in rows], pad_token_id=0)
        device = value_model.device
        output = values_at_positions(
            value_model,
            input_ids=batch.input_ids.to(device),
            attention_mask=batch.attention_mask.to(device),
            use_cache=False,
        )
        value = torch.where(batch.action_mask.to(device), at_states(output), torch.nan).float().cpu().numpy()
        for row, i in enumerate(rows):
            before_any = np.full(1, np.nan, dtype=np.float32)
            found[i] = np.concatenate([before_any, value[row, : len(trajectories[i]) - 1]])
    value_model.train(was_training)
    return found


def value_after_steps(trajectory: Trajectory, value: NDArray[np.float32]) -> NDArray[np.float32]:
    """V before the first step and after each, from V at each action; shape [steps + 1].

    The value after a step is V of the state in which the next step begins. The end token is a step of its own
    in the trajectory and none here: the value after the last step is V of the state before that token.
    """
    first = np.flatnonzero(np.diff(trajectory.step_id, prepend=-1) > 0)
    starts = [p for p in first if trajectory.step_id[p] > trajectory.step_id[:p].max(initial=-1)]
    return value[starts]
