"""Heads: hidden states of actions in, loss and gradients of hidden states and weight out.

With the KL the loss is OREO's policy loss on equally long episodes; without, a weighted sum of log-probabilities, which
is all that the heads of PyTorch and Liger offer. To add a head, write a function and add a line to `HEADS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.baseline_steps import ALPHA, BETA
from benchmarks.measure import Failed
from stepcredit.models.heads.action_statistics import ActionStatistics, statistics_of
from stepcredit.models.heads.fused_head import head_statistics, one_pass_loss
from stepcredit.models.heads.linear_heads import LinearHead
from stepcredit.objectives.oreo import kl_penalty, oreo_policy_loss

EPISODE = 128
"""Actions of an episode."""


class HeadCase(NamedTuple):
    """Hidden states and heads of policy and reference, and what the loss reads besides; N is whole episodes."""

    hidden: Float[Tensor, "N H"]
    weight: Float[Tensor, "V H"]
    ref_hidden: Float[Tensor, "N H"]
    ref_weight: Float[Tensor, "V H"]
    action: Int[Tensor, " N"]
    value: Float[Tensor, " N"]
    reward: Float[Tensor, " N"]


def head_case(
    vocab: int, hidden: int, tokens: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> HeadCase:
    """Returns random inputs, the same in every process; policy and reference differ a little."""
    with torch.device(device):
        torch.manual_seed(0)
        x, weight = torch.randn(tokens, hidden), torch.randn(vocab, hidden).mul_(0.05)
        ref_x, ref_weight = torch.randn(tokens, hidden).mul_(0.02), torch.randn(vocab, hidden).mul_(0.002)
        ref_x.add_(x)
        ref_weight.add_(weight)
        x, weight, ref_x, ref_weight = (part.to(dtype) for part in (x, weight, ref_x, ref_weight))
        action, value = torch.randint(vocab, (tokens,)), torch.rand(tokens)
        ends = torch.arange(tokens) % EPISODE == EPISODE - 1
        reward = torch.where(ends, (torch.arange(tokens) // EPISODE % 2).float(), 0.0)
    return HeadCase(x.requires_grad_(), weight.requires_grad_(), ref_x, ref_weight, action, value, reward)


def oreo_loss(
    case: HeadCase,
    log_prob: Float[Tensor, " A"],
    ref_log_prob: Float[Tensor, " A"],
    kl: Float[Tensor, " A"],
    first: int = 0,
    last: int | None = None,
) -> Float[Tensor, ""]:
    """Returns OREO's policy loss at token level of the actions first:last, which are whole episodes."""

    def rows(x: Tensor) -> Float[Tensor, "B T"]:
        return x.view(-1, EPISODE)

    log_ratio = rows(log_prob - ref_log_prob)
    segment = torch.arange(EPISODE, device=kl.device).expand_as(log_ratio)
    value, reward = (rows(x[first:last]).to(log_ratio.dtype) for x in (case.value, case.reward))
    residual = oreo_policy_loss(value=value, log_ratio=log_ratio, reward=reward, segment_id=segment, beta=BETA)
    return (residual + ALPHA * kl_penalty(rows(kl), segment >= 0)).sum()


def weighted(case: HeadCase, log_prob: Float[Tensor, " A"], first: int = 0, last: int | None = None) -> Tensor:
    """Returns the sum of the log-probabilities of the actions first:last, weighted with V."""
    return (log_prob * case.value[first:last]).sum()


def loss_of(case: HeadCase, found: ActionStatistics, kl: bool, first: int = 0, last: int | None = None) -> Tensor:
    """Returns the loss of the actions first:last from their statistics."""
    if not kl:
        return weighted(case, found.log_prob, first, last)
    assert found.ref_log_prob is not None
    assert found.kl is not None
    return oreo_loss(case, found.log_prob, found.ref_log_prob, found.kl, first, last)


def naive(case: HeadCase, kl: bool) -> Tensor:
    """Full logits [N, V] of policy and reference."""
    ref_logits = case.ref_hidden @ case.ref_weight.t() if kl else None
    return loss_of(case, statistics_of(case.hidden @ case.weight.t(), ref_logits, case.action), kl)


def trl(case: HeadCase, kl: bool) -> Tensor:
    """TRL's chunked log-probability, and its chunked divergence."""
    from benchmarks.trl_blocks import exact_kl, log_prob

    found = log_prob(case.hidden, case.weight, case.action)
    if not kl:
        return weighted(case, found)
    with torch.no_grad():
        ref_log_prob = log_prob(case.ref_hidden, case.ref_weight, case.action)
    return oreo_loss(case, found, ref_log_prob, exact_kl(case.hidden, case.weight, case.ref_hidden, case.ref_weight))


def torch_op(case: HeadCase, kl: bool) -> Tensor:
    """PyTorch's linear_cross_entropy in chunks of 256 rows."""
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise Failed(f"PyTorch {torch.__version__} has no chunked linear_cross_entropy")
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=256, chunking_method=None)
    loss = torch.nn.functional.linear_cross_entropy
    return weighted(case, -loss(case.hidden, case.weight, case.action, reduction="none", options=options))


def liger(case: HeadCase, kl: bool) -> Tensor:
    """Liger's per-token head: a kernel on Hopper GPUs, PyTorch in chunks of 512 rows elsewhere."""
    try:
        from liger_kernel.ops.fused_linear_scaled_cross_entropy import LigerFusedLinearScaledCrossEntropyFunction

        loss = LigerFusedLinearScaledCrossEntropyFunction.apply(case.hidden, case.weight, case.action)
    except ImportError as error:
        raise Failed(f"liger-kernel is not installed ({error})") from error
    return weighted(case, -loss)


def one_pass(case: HeadCase, kl: bool) -> Tensor:
    """Ours: loss and gradients of whole episodes while their logits are there."""

    def of_group(found: ActionStatistics, others: tuple[Tensor, ...], first: int, last: int) -> Tensor:
        return loss_of(case, found, kl, first, last)

    episode = torch.arange(len(case.action), device=case.action.device) // EPISODE
    return one_pass_loss(*_own(case), case.action, episode, of_group, *_reference(case, kl))


def two_passes(case: HeadCase, kl: bool) -> Tensor:
    """Ours, for objectives over more than one episode: the logits are made again in the backward pass."""
    return loss_of(case, head_statistics(*_own(case), case.action, *_reference(case, kl)), kl)


def _own(case: HeadCase) -> tuple[LinearHead, tuple[Tensor, ...]]:
    return LinearHead((case.weight,)), (case.hidden,)


def _reference(case: HeadCase, kl: bool) -> tuple[Any, Any]:
    return (LinearHead((case.ref_weight,)), (case.ref_hidden,)) if kl else (None, None)


@dataclass(frozen=True)
class Head:
    """A head.

    Attributes:
        loss: computes the loss of a case, with the exact KL or without.
        ours: whether it is the library's; the others are baselines.
        has_kl: whether it can compute the exact KL.
    """

    loss: Callable[[HeadCase, bool], Tensor]
    ours: bool = False
    has_kl: bool = True


HEADS = {
    "naive": Head(naive),
    "trl": Head(trl),
    "torch": Head(torch_op, has_kl=False),
    "liger": Head(liger, has_kl=False),
    "one pass": Head(one_pass, ours=True),
    "two passes": Head(two_passes, ours=True),
}


def run(name: str, case: HeadCase, kl: bool) -> float:
    """Computes the loss of a head and the gradients of hidden states and weight; returns the loss."""
    case.hidden.grad = case.weight.grad = None
    loss = HEADS[name].loss(case, kl)
    loss.backward()
    return float(loss.detach())
