"""The table of methods: what each is called and needs, and how its terms come from the signals of a batch.

A new method is a pure function in `objectives/`, a config in `training/configs.py`, and one line here. All else follows
from the table: `stepcredit.NAMEConfig`, `train --method`, `compare --methods`, recipes, labels and colours of a report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from stepcredit.objectives.kto import kl_baseline, kto_loss, kto_metrics, mismatched_sums
from stepcredit.objectives.likelihood import negative_log_likelihood
from stepcredit.objectives.oreo import kl_penalty, oreo_policy_loss, oreo_value_loss, sampled_kl
from stepcredit.objectives.sums import Sums, effective_share_of, mean_of
from stepcredit.objectives.topr import topr_loss
from stepcredit.training.batching import ALONE, MISMATCHED, PAIRS, BatchLayout
from stepcredit.training.configs import (
    DPOConfig,
    DQOConfig,
    DROConfig,
    KTOConfig,
    OfflineConfig,
    OREOConfig,
    RFTConfig,
    SFTConfig,
    TOPRConfig,
)


class Signals(NamedTuple):
    """All that an objective may read of a batch, over action columns [B, A]; None where not asked for."""

    log_prob: Float[Tensor, "B A"]
    ref_log_prob: Float[Tensor, "B A"] | None
    kl: Float[Tensor, "B A"] | None
    entropy: Float[Tensor, "B A"]
    value: Float[Tensor, "B A"] | None
    reward: Float[Tensor, "B A"]
    outcome: Float[Tensor, " B"]
    """How each response ended, in single precision: what right and wrong go by."""
    action_mask: Bool[Tensor, "B A"]
    step_id: Int[Tensor, "B A"]
    behavior_log_prob: Float[Tensor, "B A"]
    """log μ(a_t|s_t) where it was recorded, NaN where it was not."""
    survey: Float[Tensor, " K"] | None = None
    """What `Method.survey` found, summed over the whole optimizer step."""


class Terms(NamedTuple):
    """What an objective gives back, one number an item; `metrics` are sums, without gradient (`objectives.sums`)."""

    policy: Float[Tensor, " B"]
    value: Float[Tensor, " B"] | None
    metrics: dict[str, Sums]


@dataclass(frozen=True)
class Method:
    """One line of the table.

    Attributes:
        config: its config; `config.method` is its name.
        terms: signals and config to loss terms.
        per: what the terms are summed over and divided by, over all micro-batches and processes of an
            optimizer step: its items (an episode, a pair; one term each) or its action tokens (terms are sums).
        label: its name in reports.
        color: its colour in figures, "#rrggbb".
        arrange: how episodes are laid out as items: alone, in pairs, with mismatched responses.
        needs_value: whether a value model trains along.
        needs_reference: whether π_ref is run.
        needs_behavior: whether episodes must carry the log-probabilities of the policy that wrote them.
        keeps: which episodes it learns from, by their outcome.
        survey: sums that its loss must know of the whole optimizer step: taken of the rows that the layout sets
            aside, without gradient and before the first micro-batch, and added up over micro-batches and processes.
    """

    config: type[OfflineConfig]
    terms: Callable[[Signals, Any], Terms]
    per: Literal["item", "token"]
    label: str
    color: str
    arrange: BatchLayout = ALONE
    needs_value: bool = False
    needs_reference: bool = False
    needs_behavior: bool = False
    keeps: Callable[[float, Any], bool] = lambda outcome, config: True
    survey: Callable[[Signals], Float[Tensor, " K"]] | None = None


def likelihood_terms(signals: Signals, config: OfflineConfig) -> Terms:
    """SFT and RFT: -log π of every action."""
    return Terms(negative_log_likelihood(signals.log_prob, signals.action_mask), None, {})


def residual_inputs(signals: Signals) -> dict[str, Any]:
    """What every Bellman residual is made of: V, ρ and r of each action."""
    assert signals.ref_log_prob is not None
    assert signals.value is not None
    log_ratio = signals.log_prob - signals.ref_log_prob
    return {"value": signals.value, "log_ratio": log_ratio, "reward": signals.reward}


def oreo_terms(signals: Signals, config: OREOConfig) -> Terms:
    """OREO at any level: the squared path residual for both, and α KL for the policy."""
    assert signals.kl is not None
    given = {**residual_inputs(signals), "beta": config.beta}
    policy_id = segments(config.policy_segments, signals.action_mask, signals.step_id)
    value_id = segments(config.value_segments, signals.action_mask, signals.step_id)
    loss_given = {**given, "normalizer": config.normalizer}
    kl_at = signals.kl if config.kl_estimator == "exact" else sampled_kl(given["log_ratio"])
    kl = kl_penalty(kl_at, signals.action_mask)
    residual = oreo_policy_loss(segment_id=policy_id, **loss_given)
    metrics = {"kl": mean_of(kl), "loss/bellman": mean_of(residual), **value_metrics(segment_id=value_id, **given)}
    return Terms(
        residual + config.kl_coef * kl,
        config.value_coef * oreo_value_loss(segment_id=value_id, **loss_given),
        metrics,
    )


def dqo_terms(signals: Signals, config: DQOConfig) -> Terms:
    """DQO: both residuals against the λ-return, weighted by the truncated importance weight of the episode."""
    assert signals.ref_log_prob is not None
    segment_id = segments(config.segments, signals.action_mask, signals.step_id)
    given = {**residual_inputs(signals), "segment_id": segment_id, "beta": config.beta}
    behavior = torch.where(signals.behavior_log_prob.isnan(), signals.ref_log_prob, signals.behavior_log_prob)
    weight = trajectory_weight(signals.log_prob, behavior, signals.action_mask)
    weight = weight if config.importance_weight else torch.ones_like(weight)
    policy, value = dqo_losses(**given, weight=weight, lam=config.lam)
    metrics = {"weights/effective_share": effective_share_of(weight), **value_metrics(**given)}
    return Terms(policy, config.value_coef * value, metrics)


def response_log_ratio(signals: Signals) -> Float[Tensor, " B"]:
    """Σ_t ρ_t of each response."""
    assert signals.ref_log_prob is not None
    return torch.where(signals.action_mask, signals.log_prob - signals.ref_log_prob, 0.0).sum(-1)


def dpo_terms(signals: Signals, config: DPOConfig) -> Terms:
    """DPO: the first half of the rows are the right responses, the second half their wrong partners."""
    chosen, rejected = response_log_ratio(signals).chunk(2)
    given: dict[str, Any] = {"chosen": chosen, "rejected": rejected, "beta": config.beta}
    return Terms(dpo_loss(**given), None, dpo_metrics(**given))


def kto_terms(signals: Signals, config: KTOConfig) -> Terms:
    """KTO: gains and losses against the KL baseline of all mismatched responses of the step."""
    log_ratio = response_log_ratio(signals)
    assert signals.survey is not None
    given: dict[str, Any] = {
        "log_ratio_sum": log_ratio,
        "desirable": signals.outcome >= config.reward_threshold,
        "baseline": kl_baseline(signals.survey).to(log_ratio.dtype),
        "beta": config.beta,
    }
    weights: dict[str, Any] = {
        "desirable_weight": config.desirable_weight,
        "undesirable_weight": config.undesirable_weight,
    }
    return Terms(kto_loss(**given, **weights), None, kto_metrics(**given))


def topr_terms(signals: Signals, config: TOPRConfig) -> Terms:
    """TOPR: right responses up in full, wrong ones down by their truncated importance ratio."""
    right = signals.outcome >= config.reward_threshold
    loss = topr_loss(
        log_prob=signals.log_prob,
        behavior_log_prob=signals.behavior_log_prob,
        action_mask=signals.action_mask,
        right=right,
    )
    return Terms(loss, None, {})


def dro_terms(signals: Signals, config: DROConfig) -> Terms:
    """DRO-V: one squared residual a response."""
    given = residual_inputs(signals)
    policy, value = dro_losses(**given, action_mask=signals.action_mask, tau=config.beta)
    response = segments("response", signals.action_mask, signals.step_id)
    metrics = value_metrics(**given, segment_id=response, beta=config.beta)
    return Terms(policy, config.value_coef * value, metrics)


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
    "dpo": Method(DPOConfig, dpo_terms, per="item", label="DPO", color="#239b76", arrange=PAIRS, needs_reference=True),
    "kto": Method(
        KTOConfig,
        kto_terms,
        per="item",
        label="KTO",
        color="#c45c9c",
        arrange=MISMATCHED,
        needs_reference=True,
        survey=lambda signals: mismatched_sums(response_log_ratio(signals)),
    ),
    "topr": Method(TOPRConfig, topr_terms, per="item", label="TOPR", color="#b08900", needs_behavior=True),
    "dro": Method(
        DROConfig, dro_terms, per="item", label="DRO", color="#8a6bc9", needs_value=True, needs_reference=True
    ),
    "dqo": Method(
        DQOConfig, dqo_terms, per="item", label="DQO", color="#cf4f3e", needs_value=True, needs_reference=True
    ),
    "oreo": Method(
        OREOConfig, oreo_terms, per="item", label="OREO", color="#2476c4", needs_value=True, needs_reference=True
    ),
}


def legend(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Label and colour of the methods among some names, as `run.json` records them for the report."""
    return {n: {"label": METHODS[n].label, "color": METHODS[n].color} for n in dict.fromkeys(names) if n in METHODS}


def method_of(config: OfflineConfig) -> Method:
    """The method that a config belongs to.

    Raises:
        InputError: the config is the base class, or of no method in the table.
    """
    name = getattr(config, "method", None)
    if name not in METHODS:
        raise InputError(f"{type(config).__name__} names no method; use the config of one of {sorted(METHODS)}", "args")
    return METHODS[name]
