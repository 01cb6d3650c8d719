"""Log-probability, exact KL and entropy of actions from hidden states, without ever holding the logits [N, V].

With z and z' the logits of policy and reference, p = softmax(z), and E the mean over tokens under p:

    (1)  log π(a) = z_a - logsumexp(z)
    (2)  KL[π ‖ π_ref] = E[z - z'] - logsumexp(z) + logsumexp(z')
    (3)  H[π] = logsumexp(z) - E[z], without gradient
    (4)  ∂L/∂z_v = g (1[v = a] - p_v) + h p_v (z_v - z'_v - E[z - z']),  with g = ∂L/∂log π(a) and h = ∂L/∂KL
    (5)  ∂L/∂x_k = s (cap' ∂L/∂z) W_k,  ∂L/∂W_k = (cap' ∂L/∂z)ᵀ s x_k,  for z = cap(s Σ_k x_k W_kᵀ)

`head_statistics` takes two passes: the backward pass makes each logit again. `one_pass_loss` computes the loss of whole
episodes while the logits of a few hundred actions are there, and with it all gradients: four products of hidden states
and weights where two passes take six.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from stepcredit.models.heads.action_statistics import ActionStatistics
from stepcredit.models.heads.linear_heads import LinearHead, wide_dtype
from stepcredit.models.heads.logit_tiles import ActionNumbers, HeadCall, HeadGradients, Rates, Tiles

TILE = {"cpu": (20_000_000, 1024)}
"""Logits of a tile, and the most actions; 320 million and 8,192 elsewhere: 131 or 2,106 rows of 151,936 tokens."""

Loss = Callable[[ActionStatistics, tuple[Tensor, ...], int, int], Float[Tensor, ""]]
"""`loss_of(statistics, others, first, last)`, see `one_pass_loss`."""


def head_statistics(
    head: LinearHead,
    inputs: tuple[Tensor, ...],
    action: Int[Tensor, " N"],
    ref_head: LinearHead | None = None,
    ref_inputs: tuple[Tensor, ...] | None = None,
    *,
    needs_kl: bool = True,
    chunk: int | None = None,
) -> ActionStatistics:
    """Computes the statistics (1) to (3) of actions, with the gradients (5) of log-probability and KL.

    Gradients reach the policy's inputs and weights; none reach the reference's.

    Args:
        head, inputs: the policy's head and its inputs x_k [N, H_k] (see `linear_heads`).
        action: the token taken at each of the N states.
        ref_head, ref_inputs: those of the reference, or None.
        needs_kl: whether to compute the KL where there is a reference.
        chunk: the most actions whose logits are held at a time; None: as many as `TILE` has room for.
    """
    call = _call(head, inputs, action, ref_head, ref_inputs, needs_kl, chunk)
    return ActionStatistics(*_TwoPasses.apply(call, *inputs, *head.weights))


def one_pass_loss(
    head: LinearHead,
    inputs: tuple[Tensor, ...],
    action: Int[Tensor, " N"],
    episode: Int[Tensor, " N"],
    loss_of: Loss,
    ref_head: LinearHead | None = None,
    ref_inputs: tuple[Tensor, ...] | None = None,
    *,
    others: tuple[Tensor, ...] = (),
    needs_kl: bool = True,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Computes a loss that is a sum over groups of whole episodes, and its gradients in the same pass.

    Args:
        head, inputs, action, ref_head, ref_inputs, needs_kl: as in `head_statistics`.
        episode: the row of the batch that each action belongs to; it never decreases.
        loss_of: `loss_of(statistics, others, first, last)` returns the loss, a scalar, of the actions first:last, which
            are all actions of one episode or of several neighbours, from their statistics, each of shape
            [last - first]. It is called once per group, in order, also where no gradient is needed.
        others: the tensors with a graph that `loss_of` reads besides the statistics, such as V. It gets all of each,
            cut from its graph; their gradients are summed over groups. Whatever else it reads is a constant.
        chunk: the most actions of a group. An episode with more is a group of its own, whose logits are made twice,
            but for its last piece.
    """
    call = _call(head, inputs, action, ref_head, ref_inputs, needs_kl, chunk)
    if not torch.is_grad_enabled():
        return _loss_without_gradient(call, episode, loss_of, others)
    loss: Tensor = _OnePass.apply(call, episode, loss_of, len(others), *others, *inputs, *head.weights)
    return loss


def _call(
    head: LinearHead,
    inputs: tuple[Tensor, ...],
    action: Tensor,
    ref_head: LinearHead | None,
    ref_inputs: tuple[Tensor, ...] | None,
    needs_kl: bool,
    chunk: int | None,
) -> HeadCall:
    ref_inputs = () if ref_head is None or ref_inputs is None else ref_inputs
    wide = wide_dtype((*inputs, *head.weights, *ref_inputs, *(ref_head.weights if ref_head else ())))
    autocast = inputs[0].device.type == "cuda" and torch.is_autocast_enabled("cuda")
    half = torch.get_autocast_dtype("cuda") if autocast else None
    return HeadCall(head, inputs, action, ref_head, ref_inputs, needs_kl, chunk or default_chunk(head), wide, half)


def default_chunk(head: LinearHead) -> int:
    """Returns the number of actions whose logits fill a tile, between 128 and 1,024 on a CPU, 8,192 elsewhere."""
    weight = head.weights[0]
    logits, most = TILE.get(weight.device.type, (320_000_000, 8192))
    return max(128, min(logits // len(weight), most))


class _TwoPasses(torch.autograd.Function):
    """`head_statistics`."""

    @staticmethod
    def forward(ctx: Any, call: HeadCall, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        with torch.autocast(call.action.device.type, enabled=False):
            numbers = _numbers(Tiles(call), call.pieces(0, len(call.action)))
        ctx.call, ctx.log_sum, ctx.center, ctx.logit = call, numbers.log_sum, numbers.center, numbers.logit
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(*(x for x in (numbers.entropy, numbers.ref_log_prob) if x is not None))
        return numbers[:4]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, _: None, __: None, h: Tensor | None) -> tuple[Tensor | None, ...]:
        call, tensors = ctx.call, ctx.saved_tensors  # which fails if one was changed since
        with torch.autocast(call.action.device.type, enabled=False):
            rates = _rates(g, h, ctx.log_sum, ctx.center, ctx.logit, call)
            gradients = HeadGradients(Tiles(call), list(ctx.needs_input_grad[1:]))
            for first, last in call.pieces(0, len(call.action)):
                gradients.add(first, last, rates.part(first, last))
        pairs = zip(gradients.found(), tensors, strict=True)
        return None, *(None if x is None else x.to(y.dtype) for x, y in pairs)


class _OnePass(torch.autograd.Function):
    """`one_pass_loss`."""

    @staticmethod
    def forward(ctx: Any, call: HeadCall, episode: Tensor, loss_of: Loss, count: int, *tensors: Tensor) -> Tensor:
        others, wanted = tensors[:count], list(ctx.needs_input_grad[4 + count :])
        groups, learns = list(call.groups(episode)), any(wanted)
        most = max((last - first for pieces in groups for first, last in pieces), default=0)
        loss = call.inputs[0].new_zeros((), dtype=call.wide)
        of_others: list[Tensor | None] = [None] * count
        with torch.autocast(call.action.device.type, enabled=False):
            tiles = Tiles(call, most if learns else 0)
            gradients = HeadGradients(tiles, wanted)
            for pieces in groups:
                start, stop = pieces[0][0], pieces[-1][1]
                numbers = _numbers(tiles, pieces, keep=learns)
                part, g, h, more = _derivatives(numbers, others, loss_of, start, stop)
                loss += part
                of_others = [
                    y if x is None else x if y is None else x + y for x, y in zip(of_others, more, strict=True)
                ]
                if learns and (g is not None or h is not None):
                    rates = _rates(g, h, numbers.log_sum, numbers.center, numbers.logit, call)
                    for first, last in pieces:
                        gradients.add(first, last, rates.part(first - start, last - start))
        ctx.gradients = of_others, gradients.found()
        ctx.dtypes = [x.dtype for x in tensors]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("one_pass_loss: a second backward pass through the same loss")
        (of_others, of_head), ctx.gradients = ctx.gradients, None
        if upstream.device.type != "cpu" or upstream != 1:
            of_others = [None if x is None else x * upstream for x in of_others]
            of_head = [None if x is None else x.mul_(upstream) for x in of_head]
        pairs = zip([*of_others, *of_head], ctx.dtypes, strict=True)
        return None, None, None, None, *(None if x is None else x.to(dtype) for x, dtype in pairs)


def _loss_without_gradient(call: HeadCall, episode: Tensor, loss_of: Loss, others: tuple[Tensor, ...]) -> Tensor:
    loss = call.inputs[0].new_zeros((), dtype=call.wide)
    with torch.autocast(call.action.device.type, enabled=False):
        for pieces in call.groups(episode):
            statistics = ActionStatistics(*_numbers(Tiles(call), pieces)[:4])
            loss += loss_of(statistics, others, pieces[0][0], pieces[-1][1])
    return loss


def _numbers(tiles: Tiles, pieces: list[tuple[int, int]], keep: bool = False) -> ActionNumbers:
    """Returns the numbers of consecutive pieces; `keep`: keeps the blocks of the last one."""
    parts = [tiles.numbers(*piece, keep=keep and piece == pieces[-1]) for piece in pieces]
    return ActionNumbers._make(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))


def _rates(
    g: Tensor | None, h: Tensor | None, log_sum: Tensor, center: Tensor | None, logit: Tensor, call: HeadCall
) -> Rates:
    g = torch.zeros_like(logit) if g is None else g
    cap = call.head.softcap
    return Rates(g, h, log_sum, center, g if cap is None else g * (1 - (logit / cap).square()))


def _derivatives(
    numbers: ActionNumbers, others: tuple[Tensor, ...], loss_of: Loss, first: int, last: int
) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor | None]]:
    """Returns the loss of the actions first:last and its derivatives by log-probability, KL and the other tensors."""
    with torch.enable_grad():
        log_prob = numbers.log_prob.detach().requires_grad_()
        kl = None if numbers.kl is None else numbers.kl.detach().requires_grad_()
        leaves = tuple(x.detach().requires_grad_(x.requires_grad) for x in others)
        loss = loss_of(ActionStatistics(log_prob, numbers.entropy, numbers.ref_log_prob, kl), leaves, first, last)
        wanted = [x for x in (log_prob, kl, *leaves) if x is not None and x.requires_grad]
        found = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
    by_leaf = {id(x): y for x, y in zip(wanted, found, strict=True)}
    g, h, *more = (None if x is None else by_leaf.get(id(x)) for x in (log_prob, kl, *leaves))
    return loss.detach(), g, h, more
