"""From the output of the models on a batch to the inputs and metrics of an objective."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from stepcredit.episodes.alignment import add_bootstrap_value, at_states
from stepcredit.models.actor_critic import ActorCriticOutput
from stepcredit.objectives.sums import Sums, count, mean, mean_of, spread_of, total
from stepcredit.training.items import BatchLayout
from stepcredit.training.methods import LossTerms, Method, ObjectiveInputs

Batch = dict[str, Any]
"""The fields of `episodes.alignment.Batch` by name, and those of `ActorCritic.forward`."""


def objective_inputs(
    output: ActorCriticOutput, rows: Batch, step_statistics: Float[Tensor, " K"] | None = None
) -> ObjectiveInputs:
    """Returns the inputs of an objective for the rows of a batch."""
    statistics, value, logits = output
    dtype = statistics.log_prob.dtype
    reward = rows["reward"].to(dtype)
    if value is not None and rows["cut"].any():
        reward = add_bootstrap_value(reward, value, rows["action_mask"], rows["cut"])
    return ObjectiveInputs(
        log_prob=statistics.log_prob,
        ref_log_prob=statistics.ref_log_prob,
        kl=statistics.kl,
        entropy=statistics.entropy,
        value=None if value is None else at_states(value),
        reward=reward,
        outcome=rows["outcome"],
        action_mask=rows["action_mask"],
        step_id=rows["step_id"],
        behavior_log_prob=rows["behavior_log_prob"].to(dtype),
        step_statistics=step_statistics,
        group_number=rows["group_number"].to(dtype) if "group_number" in rows else None,
        value_logits=None if logits is None else at_states(logits),
    )


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Returns some rows of a batch, with all its prefixes."""
    return {name: field if name == "prefix" else field[rows] for name, field in batch.items()}


def split_rows(batch: Batch, layout: BatchLayout) -> tuple[Batch, Batch]:
    """Splits a batch into the rows of the loss and the rows of the step statistics."""
    at = len(batch["input_ids"]) // layout.rows_per_item * (layout.rows_per_item - layout.statistics_rows)
    return rows_of(batch, slice(0, at)), rows_of(batch, slice(at, None))


def metrics_of(method: Method, terms: LossTerms, inputs: ObjectiveInputs) -> dict[str, Sums]:
    """Returns the metric sums of a micro-batch: those common to all methods and the method's own."""
    mask = inputs.action_mask
    tokens = total(mask)
    size = tokens if method.per == "token" else count(terms.policy)
    reward = inputs.reward.sum(-1)
    return {
        "loss/policy": Sums(mean, (size, total(terms.policy))),
        **({} if terms.value is None else {"loss/value": Sums(mean, (size, total(terms.value)))}),
        "logps": Sums(mean, (tokens, total(inputs.log_prob))),
        "entropy": Sums(mean, (tokens, total(inputs.entropy))),
        "reward": mean_of(reward),
        "reward_std": spread_of(reward),
        "num_tokens": Sums(float, (tokens,)),
        **terms.metrics,
    }
