"""Values and log-ratios of trajectories, at the positions used in training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stepcredit.episodes.alignment import Batch, Trajectory, at_states, collate
from stepcredit.models.heads.action_statistics import action_statistics
from stepcredit.models.heads.value_heads import values_at_positions


@torch.inference_mode()
def values_of(
    value_model: Any, trajectories: Sequence[Trajectory], batch_size: int = 64
) -> list[Float[np.ndarray, " T"]]:
    """Computes V(s_t) of all actions: one array [T] over positions per trajectory, in order.

    Entry p is V of the state before the action at position p, NaN where p is not an action. V of a finished
    response is the entry of its end token. Trajectories are batched by length.
    """

    def columns(batch: Batch) -> Float[Tensor, "B A 1"]:
        return at_states(values_at_positions(value_model, **_inputs(batch, value_model.device)))[..., None]

    with _evaluating(value_model):
        return [value[:, 0] for value in _over_positions(columns, trajectories, batch_size)]


@torch.inference_mode()
def log_ratios_of(
    policy: Any, reference: Any, trajectories: Sequence[Trajectory], batch_size: int = 64
) -> list[Float[np.ndarray, " T"]]:
    """Computes the log-ratios of all actions (see `log_ratios_and_kl_of`)."""
    return [both[:, 0] for both in log_ratios_and_kl_of(policy, reference, trajectories, batch_size)]


@torch.inference_mode()
def log_ratios_and_kl_of(
    policy: Any, reference: Any, trajectories: Sequence[Trajectory], batch_size: int = 64
) -> list[Float[np.ndarray, "T 2"]]:
    """Computes ρ_t = log π(a_t|s_t) − log π_ref(a_t|s_t) of all actions, and the exact KL[π ‖ π_ref] at their states:
    one array [T, 2] over positions per trajectory.

    Entry p belongs to the action at position p, NaN where p is not an action, as in `values_of`.

    Args:
        policy, reference: causal language models with the same vocabulary.
        trajectories: the trajectories.
        batch_size: trajectories per batch; the logits of both models are in memory for a whole batch.
    """

    def columns(batch: Batch) -> Float[Tensor, "B A 2"]:
        logits, ref_logits = (
            at_states(model(**_inputs(batch, model.device)).logits).to(policy.device) for model in (policy, reference)
        )
        action, mask = batch.action.to(policy.device), batch.action_mask.to(policy.device)
        statistics = action_statistics(logits, ref_logits, action, mask)
        assert statistics.ref_log_prob is not None
        assert statistics.kl is not None
        return torch.stack([statistics.log_prob - statistics.ref_log_prob, statistics.kl], dim=-1)

    with _evaluating(policy, reference):
        return _over_positions(columns, trajectories, batch_size)


def _over_positions(
    columns: Callable[[Batch], Float[Tensor, "B A N"]], trajectories: Sequence[Trajectory], batch_size: int
) -> list[Float[np.ndarray, "T N"]]:
    """Evaluates `columns` in batches of similar length; returns one array [T, N] over positions per trajectory."""
    order = sorted(range(len(trajectories)), key=lambda i: len(trajectories[i]))
    results: list[Float[np.ndarray, "T N"]] = [np.zeros((0, 0), dtype=np.float32)] * len(trajectories)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate([trajectories[i] for i in rows], pad_token_id=0)
        numbers = columns(batch).float().cpu()
        masked = torch.where(batch.action_mask[..., None], numbers, torch.nan).numpy()
        for row, i in enumerate(rows):
            first = np.full((1, numbers.shape[-1]), np.nan, dtype=np.float32)
            results[i] = np.concatenate([first, masked[row, : len(trajectories[i]) - 1]])
    return results


def _inputs(batch: Batch, device: torch.device) -> dict[str, Any]:
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    return {"input_ids": ids, "attention_mask": mask, "use_cache": False}


@contextlib.contextmanager
def _evaluating(*models: Any) -> Iterator[None]:
    """Puts models into eval mode within the context."""
    was_training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, training in zip(models, was_training, strict=True):
            model.train(training)


def step_starts(trajectory: Trajectory) -> Int[np.ndarray, " S"]:
    """Returns the position of each step's first action, including the end token; shape [steps + 1].

    The prefix before the k-th of them, `ids[:start]`, is the state in which step k begins; the last prefix is the
    finished response. The end tokens of earlier turns count as steps.
    """
    first = np.flatnonzero(np.diff(trajectory.step_id, prepend=-1) > 0)
    return np.array([p for p in first if trajectory.step_id[p] > trajectory.step_id[:p].max(initial=-1)], np.int64)


def value_after_steps(trajectory: Trajectory, value: Float[np.ndarray, " T"]) -> Float[np.ndarray, " S"]:
    """Returns V before the first step and after each step, from V at each action; shape [steps + 1].

    The value after a step is V of the state in which the next step begins; after the last step, V of the state before
    the end token, which does not count as a step here.
    """
    after: Float[np.ndarray, " S"] = value[step_starts(trajectory)]
    return after


def sum_over_steps(trajectory: Trajectory, numbers: Float[np.ndarray, " T"]) -> Float[np.ndarray, " S"]:
    """Sums numbers of actions over each step; shape [steps].

    The steps are those of `value_after_steps`: without the final end token, but with the end tokens of earlier turns.

    Args:
        trajectory: a finished response.
        numbers: one number per action, over positions [T]; entries outside actions are ignored.
    """
    here = trajectory.step_id >= 0
    return np.bincount(trajectory.step_id[here], weights=numbers[here])[:-1].astype(np.float64)
