"""V and log-ratios of finished or half-finished responses, read where training reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stepcredit.episodes.alignment import Batch, Trajectory, at_states, collate
from stepcredit.models.action_statistics import action_statistics
from stepcredit.models.actor_critic import values_at_positions


@torch.inference_mode()
def values_of(
    value_model: Any, trajectories: Sequence[Trajectory], batch_size: int = 64
) -> list[Float[np.ndarray, " T"]]:
    """V(s_t) of every action of every trajectory: one array [T] each, over positions.

    Entry p is V of the state before the action at position p, NaN where p is not an action. V of a finished
    response is the entry of its end token. Trajectories are batched by length, and returned in their order.
    """

    def columns(batch: Batch) -> Float[Tensor, "B A"]:
        return at_states(values_at_positions(value_model, **_inputs(batch, value_model.device)))

    with _evaluating(value_model):
        return _over_positions(columns, trajectories, batch_size)


@torch.inference_mode()
def log_ratios_of(
    policy: Any, reference: Any, trajectories: Sequence[Trajectory], batch_size: int = 64
) -> list[Float[np.ndarray, " T"]]:
    """ρ_t = log π(a_t|s_t) − log π_ref(a_t|s_t) of every action: one array [T] each, over positions.

    Entry p speaks of the action at position p, NaN where p is not an action: the positions of `values_of`.

    Args:
        policy, reference: causal language models with one vocabulary.
        trajectories: whose actions are looked at.
        batch_size: trajectories at a time; the logits of both models are held for all of them.
    """

    def columns(batch: Batch) -> Float[Tensor, "B A"]:
        logits, ref_logits = (
            at_states(model(**_inputs(batch, model.device)).logits).to(policy.device) for model in (policy, reference)
        )
        action, mask = batch.action.to(policy.device), batch.action_mask.to(policy.device)
        found = action_statistics(logits, ref_logits, action, mask)
        assert found.ref_log_prob is not None
        return found.log_prob - found.ref_log_prob

    with _evaluating(policy, reference):
        return _over_positions(columns, trajectories, batch_size)


def _over_positions(
    columns: Callable[[Batch], Float[Tensor, "B A"]], trajectories: Sequence[Trajectory], batch_size: int
) -> list[Float[np.ndarray, " T"]]:
    """Numbers over action columns [B, T-1], batch by batch of like length, as one array [T] a trajectory."""
    order = sorted(range(len(trajectories)), key=lambda i: len(trajectories[i]))
    found: list[Float[np.ndarray, " T"]] = [np.zeros(0, dtype=np.float32)] * len(trajectories)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate([trajectories[i] for i in rows], pad_token_id=0)
        numbers = columns(batch).float().cpu()
        shown = torch.where(batch.action_mask, numbers, torch.nan).numpy()
        for row, i in enumerate(rows):
            before_any = np.full(1, np.nan, dtype=np.float32)
            found[i] = np.concatenate([before_any, shown[row, : len(trajectories[i]) - 1]])
    return found


def _inputs(batch: Batch, device: torch.device) -> dict[str, Any]:
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    return {"input_ids": ids, "attention_mask": mask, "use_cache": False}


@contextlib.contextmanager
def _evaluating(*models: Any) -> Iterator[None]:
    """Models without dropout, for as long as the context lasts."""
    was_training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, training in zip(models, was_training, strict=True):
            model.train(training)


def step_starts(trajectory: Trajectory) -> Int[np.ndarray, " S"]:
    """The position of each step's first action, the end token's included; shape [steps + 1].

    What comes before the k-th of them, `ids[:start]`, is the state in which step k begins, and the last of
    them the finished response. The end tokens of earlier turns are steps like any other.
    """
    first = np.flatnonzero(np.diff(trajectory.step_id, prepend=-1) > 0)
    return np.array([p for p in first if trajectory.step_id[p] > trajectory.step_id[:p].max(initial=-1)], np.int64)


def value_after_steps(trajectory: Trajectory, value: Float[np.ndarray, " T"]) -> Float[np.ndarray, " S"]:
    """V before the first step and after each, from V at each action; shape [steps + 1].

    The value after a step is V of the state in which the next step begins. The end token is a step of its own
    in the trajectory and none here: the value after the last step is V of the state before that token.
    """
    after: Float[np.ndarray, " S"] = value[step_starts(trajectory)]
    return after


def sum_over_steps(trajectory: Trajectory, numbers: Float[np.ndarray, " T"]) -> Float[np.ndarray, " S"]:
    """Sums of the actions' numbers over each step; shape [steps].

    The steps are those over which `value_after_steps` changes: the end token, a step of its own, is left out
    (the end token of an earlier turn is a step here as there).

    Args:
        trajectory: of a finished response.
        numbers: one an action, over positions [T]; what stands elsewhere is not looked at.
    """
    here = trajectory.step_id >= 0
    return np.bincount(trajectory.step_id[here], weights=numbers[here])[:-1].astype(np.float64)
