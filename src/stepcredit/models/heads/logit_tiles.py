"""Logits of a few hundred actions at a time: made, reduced to numbers per action, turned into gradients.

The equations are in `models.fused_head`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stepcredit.models.heads.linear_heads import LinearHead

TILE = {"cpu": 40_000_000}
"""Logits of a tile by device, 320 million elsewhere: 263 and 2106 rows at a vocabulary of 151,936."""
BLOCK = {"cpu": 2**18}
"""Logits that are reduced at a time, 2²⁵ elsewhere; on a CPU they stay in its cache."""


class HeadCall(NamedTuple):
    """The arguments of `head_statistics`, and the dtypes: `wide` of tiles and statistics, `half` of autocast."""

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
        bounds = [first + (last - first) * k // count for k in range(count + 1)]
        return list(itertools.pairwise(bounds))

    def groups(self, episode: Tensor) -> Iterator[list[tuple[int, int]]]:
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
    """What is kept of each action: its statistics, logsumexp(z), and δ + KL of (4), None without a KL."""

    log_prob: Tensor
    entropy: Tensor
    ref_log_prob: Tensor | None
    kl: Tensor | None
    log_sum: Tensor
    center: Tensor | None


class Rates(NamedTuple):
    """What the gradient (4) needs of each action: g, h, logsumexp(z), and δ + KL; h None where the loss has no KL."""

    g: Tensor
    h: Tensor | None
    log_sum: Tensor
    center: Tensor | None

    def part(self, first: int, last: int) -> Rates:
        """Returns the rates of the actions first:last."""
        return Rates._make(None if x is None else x[first:last] for x in self)


class _Operands:
    """The operands of one head's products: its inputs times the scale, and its weights, in the dtype of the product."""

    def __init__(self, head: LinearHead, inputs: tuple[Tensor, ...], call: HeadCall, cast: dict[Any, Tensor]) -> None:
        self.head, self.inputs, self.wide = head, inputs, call.wide
        dtypes = [_product_dtype(x, weight, call) for x, weight in zip(inputs, head.weights, strict=True)]
        self.weights = [
            cast.setdefault((id(weight), dtype), weight.detach().to(dtype))
            for weight, dtype in zip(head.weights, dtypes, strict=True)
        ]

    def rows(self, first: int, last: int) -> list[Tensor]:
        """Returns s x_k of the actions first:last."""
        pairs = zip(self.inputs, self.weights, strict=True)
        return [(x[first:last].detach().to(self.wide) * self.head.scale).to(weight.dtype) for x, weight in pairs]

    def write_logits(self, first: int, last: int, out: Float[Tensor, "n V"]) -> None:
        """Writes the logits of the actions first:last into a tile."""
        for k, (x, weight) in enumerate(zip(self.rows(first, last), self.weights, strict=True)):
            _multiply(x, weight.t(), out, add=k > 0)
        if self.head.softcap is not None:
            for block in out.split(_block_rows(out)):
                block.div_(self.head.softcap).tanh_().mul_(self.head.softcap)


class Tiles:
    """The logits of policy and reference for some actions at a time, in memory that is used again and again."""

    def __init__(self, call: HeadCall, rows: int) -> None:
        cast: dict[Any, Tensor] = {}
        self.call = call
        self.policy = _Operands(call.head, call.inputs, call, cast)
        self.reference = None if call.ref_head is None else _Operands(call.ref_head, call.ref_inputs, call, cast)
        self.z = call.inputs[0].new_empty(rows, len(call.head.weights[0]), dtype=call.wide)
        self.ref_z = None if self.reference is None else torch.empty_like(self.z)
        self.scratch = self.z.new_empty(2, min(max(rows, 1), _block_rows(self.z)), self.z.shape[1])

    def make(self, first: int, last: int, reference: bool = True) -> None:
        """Makes the logits of the actions first:last."""
        self.policy.write_logits(first, last, self.z[: last - first])
        if reference and self.reference is not None and self.ref_z is not None:
            self.reference.write_logits(first, last, self.ref_z[: last - first])

    def numbers(self, pieces: list[tuple[int, int]]) -> ActionNumbers:
        """Makes the logits of each piece and reduces them; those of the last piece stay."""
        parts = []
        for first, last in pieces:
            self.make(first, last)
            action = self.call.action[first:last, None]
            for at, z, ref_z, scratch in self._blocks(last - first):
                parts.append(_reduced(z, ref_z, action[at], scratch, self.call.needs_kl))
        return ActionNumbers._make(
            None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)
        )

    def gradient(self, first: int, last: int, rates: Rates) -> Float[Tensor, "n V"]:
        """Overwrites the logits made last, those of first:last, by the gradient by s Σ_k x_k W_kᵀ, and returns it."""
        action, softcap = self.call.action[first:last, None], self.call.head.softcap
        for at, z, ref_z, scratch in self._blocks(last - first):
            _differentiate(z, ref_z, action[at], scratch, rates.part(at.start, at.stop), softcap)
        return self.z[: last - first]

    def _blocks(self, rows: int) -> Iterator[tuple[slice, Tensor, Tensor | None, Tensor]]:
        """Yields a few rows of the tiles at a time, and memory for two more of the same shape."""
        step = self.scratch.shape[1]
        for start in range(0, max(rows, 1), step):
            at = slice(start, min(start + step, rows))
            yield at, self.z[at], None if self.ref_z is None else self.ref_z[at], self.scratch[:, : at.stop - start]


def _reduced(z: Tensor, ref_z: Tensor | None, action: Tensor, scratch: Tensor, needs_kl: bool) -> ActionNumbers:
    """Reduces logits [n, V] to (1), (2) and (3).

    Args:
        z, ref_z: the logits; they stay as they are.
        action: the actions [n, 1].
        scratch: memory [2, n, V] to write into.
    """
    top = z.amax(-1, keepdim=True)
    below = torch.sub(z, top, out=scratch[0])
    p = torch.exp(below, out=scratch[1])
    total = p.sum(-1)
    log_total = total.log()
    log_sum = log_total + top[:, 0]
    log_prob = z.gather(1, action)[:, 0] - log_sum
    entropy = log_total - torch.linalg.vecdot(p, below) / total
    if ref_z is None:
        return ActionNumbers(log_prob, entropy, None, None, log_sum, None)
    ref_top = ref_z.amax(-1, keepdim=True)
    ref_log_sum = torch.sub(ref_z, ref_top, out=scratch[0]).exp_().sum(-1).log() + ref_top[:, 0]
    ref_log_prob = ref_z.gather(1, action)[:, 0] - ref_log_sum
    shift = log_sum - ref_log_sum
    if not needs_kl:
        return ActionNumbers(log_prob, entropy, ref_log_prob, None, log_sum, None)
    log_ratio = torch.sub(z, ref_z, out=scratch[0]).sub_(shift[:, None])
    kl = torch.linalg.vecdot(p, log_ratio) / total
    return ActionNumbers(log_prob, entropy, ref_log_prob, kl, log_sum, shift + kl)


def _differentiate(
    z: Tensor, ref_z: Tensor | None, action: Tensor, scratch: Tensor, rates: Rates, softcap: float | None
) -> None:
    """Overwrites logits z [n, V] by their gradient (4), times the slope of the softcap; arguments as in `_reduced`."""
    g = rates.g[:, None]
    p, rate = torch.sub(z, rates.log_sum[:, None], out=scratch[0]).exp_(), -g
    if rates.h is not None and rates.center is not None and ref_z is not None:
        rate = torch.sub(z, ref_z, out=scratch[1]).sub_(rates.center[:, None]).mul_(rates.h[:, None]).sub_(g)
    if softcap is None:
        torch.mul(p, rate, out=z).scatter_add_(1, action, g)
    else:
        z.div_(softcap).square_().neg_().add_(1).mul_(p.mul_(rate).scatter_add_(1, action, g))


class HeadGradients:
    """The gradients (5) of those inputs and weights that need one, summed over tiles in float32 or wider."""

    def __init__(self, tiles: Tiles, wanted: list[bool]) -> None:
        count = len(tiles.policy.inputs)
        self.tiles, self.wanted = tiles, (wanted[:count], wanted[count:])
        self.inputs: list[Tensor | None] = [
            x.new_zeros(x.shape, dtype=tiles.call.wide) if wants else None
            for x, wants in zip(tiles.policy.inputs, wanted[:count], strict=True)
        ]
        self.weights: list[Tensor | None] = [None] * count

    def add(self, first: int, last: int, rates: Rates) -> None:
        """Adds the gradients by way of the logits made last, those of first:last (see `Tiles.gradient`)."""
        operands, scale = self.tiles.policy, self.tiles.call.head.scale
        if not any(self.wanted[0] + self.wanted[1]):
            return
        dz = self.tiles.gradient(first, last, rates)
        for k, (x, weight) in enumerate(zip(operands.rows(first, last), operands.weights, strict=True)):
            left, of_input, of_weight = dz.to(x.dtype), self.inputs[k], self.weights[k]
            if of_input is not None:
                _multiply(left, weight, of_input[first:last], add=False)
                of_input[first:last] *= scale
            if self.wanted[1][k]:
                total = weight.new_empty(weight.shape, dtype=dz.dtype) if of_weight is None else of_weight
                _multiply(left.t(), x, total, add=of_weight is not None)
                self.weights[k] = total


def _multiply(a: Float[Tensor, "n k"], b: Float[Tensor, "k m"], out: Float[Tensor, "n m"], add: bool) -> None:
    """Writes a b into `out`, or adds it; half-precision products are summed in the dtype of `out`."""
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, out=out) if add else torch.mm(a, b, out=out)
        return
    for rows in torch.arange(len(out), device="cpu").split(_block_rows(out)):
        at = slice(int(rows[0]), int(rows[-1]) + 1)
        product = torch.mm(a[at], b, out_dtype=out.dtype)
        out[at] = out[at] + product if add else product


def _product_dtype(x: Tensor, weight: Tensor, call: HeadCall) -> torch.dtype:
    """Returns the dtype of the operands of x Wᵀ: half precision where a GPU has it summed in single, else `wide`."""
    if x.device.type != "cuda" or call.wide == torch.float64:
        return call.wide
    if call.half is not None:
        return call.half
    return x.dtype if x.dtype == weight.dtype else call.wide


def _block_rows(tile: Float[Tensor, "n V"]) -> int:
    return max(1, BLOCK.get(tile.device.type, 2**25) // tile.shape[1])
