"""Logits of some actions at some tokens: made, reduced to numbers per action, turned into gradients.

A *piece* is a run of actions, a *block* is a piece at a run of tokens of the vocabulary. Blocks fit into the cache of a
CPU, where the logits are made, reduced and used; numbers of blocks add up to numbers of actions. Where all blocks of a
piece are kept until its loss is known, they are a *tile* [n, V]. The equations are in `fused_head`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stepcredit.models.heads.linear_heads import LinearHead

BLOCK = {"cpu": 2**19}
"""Logits of a block, 2²⁴ elsewhere."""


class HeadCall(NamedTuple):
    """The arguments of `head_statistics`, and dtypes: `wide` of logits and statistics, `half` of autocast on a GPU."""

    head: LinearHead
    inputs: tuple[Tensor, ...]
    action: Tensor
    ref_head: LinearHead | None
    ref_inputs: tuple[Tensor, ...]
    needs_kl: bool
    chunk: int
    wide: torch.dtype
    half: torch.dtype | None

    def pieces(self, first: int, last: int) -> list[tuple[int, int]]:
        """Splits actions into as few pieces of at most `chunk` as there can be, of about equal size."""
        count = max(1, -(-(last - first) // self.chunk))
        return list(itertools.pairwise(first + (last - first) * k // count for k in range(count + 1)))

    def groups(self, episode: Int[Tensor, " N"]) -> Iterator[list[tuple[int, int]]]:
        """Yields groups of whole episodes of at most `chunk` actions together, or one longer episode, in pieces."""
        first = last = 0
        for size in episode.unique_consecutive(return_counts=True)[1].tolist():
            if last > first and last + size - first > self.chunk:
                yield self.pieces(first, last)
                first = last
            last += size
        if last > first:
            yield self.pieces(first, last)


class ActionNumbers(NamedTuple):
    """What is kept of each action: its statistics, and what the gradient needs.

    `center` is E[z - z'], None without a KL; `logit` is z_a; `log_sum` is logsumexp(z), in float64 (see `_softmax`).
    """

    log_prob: Tensor
    entropy: Tensor
    ref_log_prob: Tensor | None
    kl: Tensor | None
    center: Tensor | None
    logit: Tensor
    log_sum: Tensor


class Rates(NamedTuple):
    """The coefficients of the gradient (4) of each action; `h` is None where the loss has no KL.

    `pull` is g cap'(z_a), the gradient at the action taken, without that through logsumexp(z).
    """

    g: Tensor
    h: Tensor | None
    log_sum: Tensor
    center: Tensor | None
    pull: Tensor

    def part(self, first: int, last: int) -> Rates:
        """Returns the rates of the actions first:last."""
        return Rates._make(None if x is None else x[first:last] for x in self)


class Block(NamedTuple):
    """A piece at a run of tokens.

    Attributes:
        tokens: the run.
        p: softmax(z) over these tokens alone, times cap'(z).
        log_sum: logsumexp(z) over these tokens.
        log_ratio: z - z', None without a reference.
    """

    tokens: slice
    p: Float[Tensor, "n w"]
    log_sum: Float[Tensor, " n"]
    log_ratio: Float[Tensor, "n w"] | None

    def gradient(self, action: Int[Tensor, " n"], rates: Rates) -> Float[Tensor, "n w"]:
        """Returns the gradient (4), in the memory of `p`; overwrites `log_ratio`."""
        share = (self.log_sum - rates.log_sum).exp().to(self.p.dtype)[:, None]
        rate = -rates.g[:, None] * share
        if rates.h is not None and rates.center is not None and self.log_ratio is not None:
            rate = self.log_ratio.sub_(rates.center[:, None]).mul_(rates.h[:, None] * share).add_(rate)
        at, inside = _within(action, self.tokens)
        return self.p.mul_(rate).scatter_add_(1, at[:, None], torch.where(inside, rates.pull, 0)[:, None])


class _Operands:
    """The operands of one head's products: its inputs times the scale, and its weights, in the dtype of the product."""

    def __init__(self, head: LinearHead, inputs: tuple[Tensor, ...], call: HeadCall) -> None:
        self.head, self.inputs, self.wide = head, inputs, call.wide
        self.dtypes = [_product_dtype(x, weight, call) for x, weight in zip(inputs, head.weights, strict=True)]

    def rows(self, first: int, last: int) -> list[Tensor]:
        """Returns s x_k of the actions first:last."""
        pairs = zip(self.inputs, self.dtypes, strict=True)
        return [(x[first:last].detach().to(self.wide) * self.head.scale).to(dtype) for x, dtype in pairs]

    def columns(self, tokens: slice) -> list[Tensor]:
        """Returns W_k of some tokens."""
        return [w[tokens].detach().to(dtype) for w, dtype in zip(self.head.weights, self.dtypes, strict=True)]

    def logits(self, rows: list[Tensor], tokens: slice) -> Float[Tensor, "n w"]:
        """Returns the logits of some actions, given by `rows`, at some tokens."""
        first, *more = (product(x, weight) for x, weight in zip(rows, self.columns(tokens), strict=True))
        for term in more:
            first += term
        cap = self.head.softcap
        return first if cap is None else first.div_(cap).tanh_().mul_(cap)


class Tiles:
    """The logits of policy and reference, a block at a time.

    Args:
        call: the heads and the actions.
        rows: the most actions whose blocks are kept.
    """

    def __init__(self, call: HeadCall, rows: int = 0) -> None:
        self.call = call
        self.policy = _Operands(call.head, call.inputs, call)
        self.reference = None if call.ref_head is None else _Operands(call.ref_head, call.ref_inputs, call)
        self.vocabulary = len(call.head.weights[0])
        size = rows * self.vocabulary
        self._p = call.inputs[0].new_empty(size, dtype=call.wide)
        self._log_ratio = torch.empty_like(self._p) if call.needs_kl and self.reference else None
        self._kept: tuple[tuple[int, int], list[Block]] = ((0, 0), [])

    def numbers(self, first: int, last: int, keep: bool = False) -> ActionNumbers:
        """Reduces the logits of the actions first:last, and keeps their blocks for the next call of `blocks`."""
        action, count = self.call.action[first:last], last - first
        rows, ref_rows = self.policy.rows(first, last), self.reference.rows(first, last) if self.reference else []
        blocks, parts = [], []
        for tokens in self._tokens(count):
            at, inside = _within(action, tokens)
            z = self.policy.logits(rows, tokens)
            p, log_sum = _softmax(z, self._memory(self._p, tokens, count, keep))
            taken = torch.where(inside, z.gather(1, at[:, None])[:, 0], 0)
            part = [log_sum, torch.linalg.vecdot(p, z), taken]
            log_ratio = None
            if self.reference is not None:
                ref_z = self.reference.logits(ref_rows, tokens)
                part += [_softmax(ref_z)[1], torch.where(inside, ref_z.gather(1, at[:, None])[:, 0], 0)]
                if self._log_ratio is not None:
                    log_ratio = torch.sub(z, ref_z, out=self._memory(self._log_ratio, tokens, count, keep))
                    part += [torch.linalg.vecdot(p, log_ratio)]
            parts.append(part)
            if keep:
                blocks.append(Block(tokens, self._flattened(p, z), log_sum, log_ratio))
        self._kept = ((first, last), blocks)
        return _total(parts, self.call.wide)

    def blocks(self, first: int, last: int, reference: bool) -> Iterator[Block]:
        """Yields the blocks of the actions first:last, kept ones or made again; `reference`: with `log_ratio`."""
        piece, blocks = self._kept
        if blocks and piece == (first, last):
            self._kept = ((0, 0), [])
            yield from blocks
            return
        use = self.reference if reference else None
        rows, ref_rows = self.policy.rows(first, last), use.rows(first, last) if use else []
        for tokens in self._tokens(last - first):
            z = self.policy.logits(rows, tokens)
            p, log_sum = _softmax(z)
            log_ratio = None if use is None else use.logits(ref_rows, tokens).neg_().add_(z)
            yield Block(tokens, self._flattened(p, z), log_sum, log_ratio)

    def _flattened(self, p: Tensor, z: Tensor) -> Tensor:
        """Multiplies p by cap'(z); overwrites z."""
        cap = self.call.head.softcap
        return p if cap is None else p.mul_(z.div_(cap).square_().neg_().add_(1))

    def _tokens(self, count: int) -> Iterator[slice]:
        """Yields the runs of tokens at which `count` actions make a block."""
        step = max(1, BLOCK.get(self.call.action.device.type, 2**24) // max(1, count))
        for start in range(0, self.vocabulary, step):
            yield slice(start, min(start + step, self.vocabulary))

    def _memory(self, tile: Tensor, tokens: slice, count: int, keep: bool) -> Tensor | None:
        """Returns the memory of a block in a tile; None: it is not kept."""
        return tile[tokens.start * count : tokens.stop * count].view(count, -1) if keep else None


def _total(parts: list[list[Tensor]], wide: torch.dtype) -> ActionNumbers:
    """Adds up the numbers of blocks, each weighed by its share of the probability."""
    log_sums, mean_logit, logits, *of_reference = (torch.stack(column) for column in zip(*parts, strict=True))
    log_sum, logit = log_sums.logsumexp(0), logits.sum(0)
    share = (log_sums - log_sum).exp()
    log_prob, entropy = logit - log_sum, log_sum - (share * mean_logit).sum(0)
    ref_log_prob = center = kl = None
    if of_reference:
        ref_log_sum = of_reference[0].logsumexp(0)
        ref_log_prob = of_reference[1].sum(0) - ref_log_sum
    if of_reference[2:]:
        center = (share * of_reference[2]).sum(0)
        kl = center - (log_sum - ref_log_sum)
    numbers = (log_prob, entropy, ref_log_prob, kl, center, logit)
    return ActionNumbers._make([*(None if x is None else x.to(wide) for x in numbers), log_sum])


def _softmax(z: Float[Tensor, "n w"], out: Float[Tensor, "n w"] | None = None) -> tuple[Tensor, Tensor]:
    """Returns softmax(z) and logsumexp(z) of each row, with one exponential per logit.

    The sum is in float64 where the device has it: a KL is a small difference of two of them.
    """
    p = torch.softmax(z, -1, out=out)
    exact = torch.float32 if z.device.type == "mps" else torch.float64
    return p, z.amax(-1).to(exact) - p.amax(-1).to(exact).log()


def _within(action: Int[Tensor, " n"], tokens: slice) -> tuple[Int[Tensor, " n"], Tensor]:
    """Returns the place of each action among some tokens, and whether it is one of them."""
    inside = (action >= tokens.start) & (action < tokens.stop)
    return torch.where(inside, action - tokens.start, 0), inside


class HeadGradients:
    """The gradients (5) of those inputs and weights that need one, summed over blocks in float32 or wider."""

    def __init__(self, tiles: Tiles, wanted: list[bool]) -> None:
        operands, wide = tiles.policy, tiles.call.wide
        count = len(operands.inputs)
        self.tiles, self._fresh = tiles, True
        self.inputs = [
            x.new_zeros(x.shape, dtype=wide) if wants else None
            for x, wants in zip(operands.inputs, wanted[:count], strict=True)
        ]
        self.weights = [
            weight.new_empty(weight.shape, dtype=wide) if wants else None
            for weight, wants in zip(operands.head.weights, wanted[count:], strict=True)
        ]

    def add(self, first: int, last: int, rates: Rates) -> None:
        """Adds the gradients of the actions first:last, given their rates."""
        operands, action = self.tiles.policy, self.tiles.call.action[first:last]
        rows = operands.rows(first, last)
        for block in self.tiles.blocks(first, last, reference=rates.h is not None):
            dz = block.gradient(action, rates)
            for k, weight in enumerate(operands.columns(block.tokens)):
                dz_k, of_input, of_weight = dz.to(weight.dtype), self.inputs[k], self.weights[k]
                if of_input is not None:
                    of_input[first:last].add_(product(dz_k, weight.t()), alpha=operands.head.scale)
                if of_weight is not None:
                    found, total = product(dz_k.t(), rows[k].t()), of_weight[block.tokens]
                    total.copy_(found) if self._fresh else total.add_(found)
        self._fresh = False

    def found(self) -> list[Tensor | None]:
        """Returns the gradients of inputs and weights; None where there is none."""
        return [None] * len(self.inputs + self.weights) if self._fresh else self.inputs + self.weights


def product(a: Float[Tensor, "n k"], b: Float[Tensor, "m k"]) -> Float[Tensor, "n m"]:
    """Returns a bᵀ; half-precision products are summed and returned in float32.

    For large products of float32 on a CPU with AVX-512 it calls oneDNN, which is twice as fast there as the library
    behind `torch.mm` on processors that are not Intel's.
    """
    if a.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(a, b.t(), out_dtype=torch.float32)
    if _ONEDNN is not None and a.dtype == torch.float32 and a.device.type == "cpu" and a.numel() * len(b) > 2**22:
        fast: Tensor = _ONEDNN(a, b, None, "none", [], "")
        return fast
    return torch.mm(a, b.t())


def _product_dtype(x: Tensor, weight: Tensor, call: HeadCall) -> torch.dtype:
    """Returns the dtype of the operands of x Wᵀ: half precision where a GPU has it summed in single, else `wide`."""
    if x.device.type != "cuda" or call.wide == torch.float64:
        return call.wide
    if call.half is not None:
        return call.half
    return x.dtype if x.dtype == weight.dtype else call.wide


def _onednn() -> Any | None:
    """Returns oneDNN's product of matrices; None where it is not there, or not faster."""
    fast = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if fast else None


_ONEDNN = _onednn()
