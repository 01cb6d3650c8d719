"""The registry of methods: for each its config, its requirements, and how it computes its loss terms from a batch.

To add a method, write a pure function in `objectives/`, a config in `training/configs.py`, and one entry here.
Everything else reads this table: `stepcredit.NAMEConfig`, `train --method`, `compare --methods`, recipes, and the
labels and colours of reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stepcredit.episodes.alignment import segments
from stepcredit.errors import InputError
from stepcredit.objectives.diagnostics import value_metrics
from stepcredit.objectives.dpo import dpo_loss, dpo_metrics
from stepcredit.objectives.dqo import dqo_losses, trajectory_weight
from stepcredit.objectives.dro import dro_losses
from stepcredit.objectives.iql import iql_losses
from stepcredit.objectives.kto import kl_baseline, kto_loss, kto_metrics, mismatched_sums
from stepcredit.objectives.likelihood import negative_log_likelihood
from stepcredit.objectives.oapl import group_value, oapl_loss, oapl_metrics
from stepcredit.objectives.oreo import kl_penalty, oreo_policy_loss, oreo_value_loss, sampled_kl
from stepcredit.objectives.sums import Sums, effective_share_of, mean_of
from stepcredit.objectives.topr import topr_loss
from stepcredit.objectives.value_losses import Categorical, ValueLoss, squared
from stepcredit.training.configs import (
    DPOConfig,
    DQOConfig,
    DROConfig,
    IQLConfig,
    KTOConfig,
    OAPLConfig,
    OREOConfig,
    RFTConfig,
    SFTConfig,
    TOPRConfig,
    ValueConfig,
)
from stepcredit.training.items import MISMATCHED, PAIRS, SINGLE, BatchLayout
from stepcredit.training.offline_config import OfflineConfig


class ObjectiveInputs(NamedTuple):
    """The inputs of an objective, over action columns [B, A]; None where the method does not need them."""

    log_prob: Float[Tensor, "B A"]
    ref_log_prob: Float[Tensor, "B A"] | None
    kl: Float[Tensor, "B A"] | None
    entropy: Float[Tensor, "B A"]
    value: Float[Tensor, "B A"] | None
    reward: Float[Tensor, "B A"]
    outcome: Float[Tensor, " B"]
    """The outcome of each response, in single precision; decides between right and wrong."""
    action_mask: Bool[Tensor, "B A"]
    step_id: Int[Tensor, "B A"]
    behavior_log_prob: Float[Tensor, "B A"]
    """log μ(a_t|s_t); NaN where it was not recorded."""
    step_statistics: Float[Tensor, " K"] | None = None
    """`Method.step_statistics`, summed over the whole optimizer step."""
    group_number: Float[Tensor, " B"] | None = None
    """`Method.group_number` of the prompt of each response."""
    value_logits: Float[Tensor, "B A K"] | None = None
    """Those of the bins of V, where it is fitted by classification."""


class LossTerms(NamedTuple):
    """The loss terms of an objective, one number per item; `metrics` are sums without gradient (`objectives.sums`)."""

    policy: Float[Tensor, " B"]
    value: Float[Tensor, " B"] | None
    metrics: dict[str, Sums]


@dataclass(frozen=True)
class Method:
    """An entry of the registry.

    Attributes:
        config: the config class; `config.method` is the name of the method.
        terms: computes the loss terms from the inputs and the config.
        per: the normaliser of the loss, over all micro-batches and processes of an optimizer step: its items (an
            episode or a pair; one term each) or its action tokens (terms are sums over tokens).
        label: the name in reports.
        color: the colour in figures, "#rrggbb".
        batch_layout: how episodes are grouped into items: single, in pairs, or with mismatched responses.
        needs_value: whether a value model is trained with the policy.
        needs_reference: whether log-probabilities under π_ref are computed.
        needs_kl: whether, given the config, the exact KL to the reference is computed.
        needs_behavior: whether episodes must have log-probabilities of the behaviour policy.
        keeps: whether the method trains on an episode, given its outcome and the config.
        step_statistics: sums over the whole optimizer step that the loss needs. They are computed on the layout's
            `statistics_rows`, without gradient, before the first micro-batch, and summed over micro-batches and
            processes.
        group_number: a number of each prompt that the loss needs, from the returns of all its graded responses in the
            dataset and the config. It is computed once, before responses are left out (`training.data.prepare`).
    """

    config: type[OfflineConfig]
    terms: Callable[[ObjectiveInputs, Any], LossTerms]
    per: Literal["item", "token"]
    label: str
    color: str
    batch_layout: BatchLayout = SINGLE
    needs_value: bool = False
    needs_reference: bool = False
    needs_kl: Callable[[Any], bool] = lambda config: False
    needs_behavior: bool = False
    keeps: Callable[[float, Any], bool] = lambda outcome, config: True

    step_statistics: Callable[[ObjectiveInputs], Float[Tensor, " K"]] | None = None
    group_number: Callable[[Sequence[float], Any], float] | None = None


def likelihood_terms(inputs: ObjectiveInputs, config: OfflineConfig) -> LossTerms:
    """SFT and RFT: -log π of every action."""
    return LossTerms(negative_log_likelihood(inputs.log_prob, inputs.action_mask), None, {})


def residual_inputs(inputs: ObjectiveInputs) -> dict[str, Any]:
    """Returns the inputs of a Bellman residual: V, ρ and r of each action."""
    assert inputs.ref_log_prob is not None
    assert inputs.value is not None
    log_ratio = inputs.log_prob - inputs.ref_log_prob
    return {"value": inputs.value, "log_ratio": log_ratio, "reward": inputs.reward}


def value_loss_of(inputs: ObjectiveInputs, config: ValueConfig) -> ValueLoss:
    """Returns how V is fitted to its targets."""
    if inputs.value_logits is None or config.bins is None:
        return squared
    logits = inputs.value_logits
    return Categorical(logits, torch.tensor(config.bins, dtype=logits.dtype, device=logits.device))


def oreo_terms(inputs: ObjectiveInputs, config: OREOConfig) -> LossTerms:
    """OREO at any level: squared path residuals for policy and value, plus α KL for the policy."""
    residual_args = {**residual_inputs(inputs), "beta": config.beta}
    policy_id = segments(config.policy_segments, inputs.action_mask, inputs.step_id)
    value_id = segments(config.value_segments, inputs.action_mask, inputs.step_id)
    loss_args = {**residual_args, "normalizer": config.normalizer}
    token_kl = sampled_kl(residual_args["log_ratio"]) if inputs.kl is None else inputs.kl
    kl = kl_penalty(token_kl, inputs.action_mask)
    residual = oreo_policy_loss(segment_id=policy_id, **loss_args)
    values = value_metrics(segment_id=value_id, **residual_args, bins=config.bins)
    metrics = {"kl": mean_of(kl), "loss/bellman": mean_of(residual), **values}
    return LossTerms(
        residual + config.kl_coef * kl,
        config.value_coef * oreo_value_loss(segment_id=value_id, **loss_args, loss=value_loss_of(inputs, config)),
        metrics,
    )


def dqo_terms(inputs: ObjectiveInputs, config: DQOConfig) -> LossTerms:
    """DQO: policy and value residuals against the λ-return, weighted by the episode's truncated importance weight."""
    assert inputs.ref_log_prob is not None
    segment_id = segments(config.segments, inputs.action_mask, inputs.step_id)
    residual_args = {**residual_inputs(inputs), "segment_id": segment_id, "beta": config.beta}
    behavior = torch.where(inputs.behavior_log_prob.isnan(), inputs.ref_log_prob, inputs.behavior_log_prob)
    weight = trajectory_weight(inputs.log_prob, behavior, inputs.action_mask)
    weight = weight if config.importance_weight else torch.ones_like(weight)
    fit = value_loss_of(inputs, config)
    policy, value = dqo_losses(**residual_args, weight=weight, lam=config.lam, loss=fit)
    metrics = {
        "weights/effective_share": effective_share_of(weight),
        **value_metrics(**residual_args, bins=config.bins),
    }
    return LossTerms(policy, config.value_coef * value, metrics)


def response_log_ratio(inputs: ObjectiveInputs) -> Float[Tensor, " B"]:
    """Returns Σ_t ρ_t of each response."""
    assert inputs.ref_log_prob is not None
    return torch.where(inputs.action_mask, inputs.log_prob - inputs.ref_log_prob, 0.0).sum(-1)


def dpo_terms(inputs: ObjectiveInputs, config: DPOConfig) -> LossTerms:
    """DPO: the first half of the rows are the right responses, the second half the wrong responses paired with them."""
    chosen, rejected = response_log_ratio(inputs).chunk(2)
    args: dict[str, Any] = {"chosen": chosen, "rejected": rejected, "beta": config.beta}
    return LossTerms(dpo_loss(**args), None, dpo_metrics(**args))


def kto_terms(inputs: ObjectiveInputs, config: KTOConfig) -> LossTerms:
    """KTO: gains and losses relative to the KL baseline over the mismatched responses of the optimizer step."""
    log_ratio = response_log_ratio(inputs)
    assert inputs.step_statistics is not None
    args: dict[str, Any] = {
        "log_ratio_sum": log_ratio,
        "desirable": inputs.outcome >= config.reward_threshold,
        "baseline": kl_baseline(inputs.step_statistics).to(log_ratio.dtype),
        "beta": config.beta,
    }
    weights: dict[str, Any] = {
        "desirable_weight": config.desirable_weight,
        "undesirable_weight": config.undesirable_weight,
    }
    return LossTerms(kto_loss(**args, **weights), None, kto_metrics(**args))


def topr_terms(inputs: ObjectiveInputs, config: TOPRConfig) -> LossTerms:
    """TOPR: weight 1 on right responses, the truncated importance ratio on wrong ones."""
    right = inputs.outcome >= config.reward_threshold
    loss = topr_loss(
        log_prob=inputs.log_prob,
        behavior_log_prob=inputs.behavior_log_prob,
        action_mask=inputs.action_mask,
        right=right,
    )
    return LossTerms(loss, None, {})


def dro_terms(inputs: ObjectiveInputs, config: DROConfig) -> LossTerms:
    """DRO-V: one squared residual per response."""
    residual_args = residual_inputs(inputs)
    fit = value_loss_of(inputs, config)
    policy, value = dro_losses(**residual_args, action_mask=inputs.action_mask, tau=config.beta, loss=fit)
    response = segments("response", inputs.action_mask, inputs.step_id)
    metrics = value_metrics(**residual_args, segment_id=response, beta=config.beta, bins=config.bins)
    return LossTerms(policy, config.value_coef * value, metrics)


def iql_terms(inputs: ObjectiveInputs, config: IQLConfig) -> LossTerms:
    """IQL: V an expectile of the λ-returns, actions weighted by their advantages."""
    assert inputs.value is not None
    segment_id = segments(config.segments, inputs.action_mask, inputs.step_id)
    args: dict[str, Any] = {"value": inputs.value, "reward": inputs.reward, "segment_id": segment_id}
    settings: dict[str, Any] = {"expectile": config.expectile, "lam": config.lam, "max_weight": config.max_weight}
    settings["loss"] = value_loss_of(inputs, config)
    policy, value, weights = iql_losses(**args, log_prob=inputs.log_prob, beta=config.beta, **settings)
    no_reference = torch.zeros_like(inputs.log_prob)
    metrics = {**weights, **value_metrics(**args, log_ratio=no_reference, beta=config.beta, bins=config.bins)}
    return LossTerms(policy, config.value_coef * value, metrics)


def oapl_terms(inputs: ObjectiveInputs, config: OAPLConfig) -> LossTerms:
    """OAPL: one squared residual per response against the log-mean-exp of its prompt's rewards."""
    assert inputs.group_number is not None
    args: dict[str, Any] = {
        "log_ratio_sum": response_log_ratio(inputs),
        "total_reward": inputs.reward.sum(-1),
        "group_value": inputs.group_number,
        "beta": config.beta,
    }
    return LossTerms(oapl_loss(**args), None, oapl_metrics(**args))


METHODS: dict[str, Method] = {
    "sft": Method(SFTConfig, likelihood_terms, per="token", label="SFT", color="#858c96"),
    "rft": Method(
        RFTConfig,
        likelihood_terms,
        per="token",
        label="rejection sampling",
        color="#e07418",
        keeps=lambda outcome, config: outcome >= config.reward_threshold,
    ),
    "dpo": Method(
        DPOConfig, dpo_terms, per="item", label="DPO", color="#239b76", batch_layout=PAIRS, needs_reference=True
    ),
    "kto": Method(
        KTOConfig,
        kto_terms,
        per="item",
        label="KTO",
        color="#c45c9c",
        batch_layout=MISMATCHED,
        needs_reference=True,
        step_statistics=lambda inputs: mismatched_sums(response_log_ratio(inputs)),
    ),
    "topr": Method(TOPRConfig, topr_terms, per="item", label="TOPR", color="#b08900", needs_behavior=True),
    "oapl": Method(
        OAPLConfig,
        oapl_terms,
        per="item",
        label="OAPL",
        color="#2f5d62",
        needs_reference=True,
        group_number=lambda returns, config: group_value(returns, config.value_beta or config.beta),
    ),
    "dro": Method(
        DROConfig, dro_terms, per="item", label="DRO", color="#8a6bc9", needs_value=True, needs_reference=True
    ),
    "iql": Method(IQLConfig, iql_terms, per="item", label="IQL", color="#5d7a2e", needs_value=True),
    "dqo": Method(
        DQOConfig, dqo_terms, per="item", label="DQO", color="#cf4f3e", needs_value=True, needs_reference=True
    ),
    "oreo": Method(
        OREOConfig,
        oreo_terms,
        per="item",
        label="OREO",
        color="#2476c4",
        needs_value=True,
        needs_reference=True,
        needs_kl=lambda config: config.kl_estimator == "exact",
    ),
}


def legend(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns label and colour of those names that are methods, as recorded in `run.json` for the report."""
    return {n: {"label": METHODS[n].label, "color": METHODS[n].color} for n in dict.fromkeys(names) if n in METHODS}


def method_of(config: OfflineConfig) -> Method:
    """Returns the method of a config.

    Raises:
        InputError: the config is a base class, or its method is not in the table.
    """
    name = getattr(config, "method", None)
    if name not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise InputError(f"{type(config).__name__} has no method; use the config of one of {known}", "args")
    return METHODS[name]
