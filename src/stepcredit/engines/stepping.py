"""Responses drawn a step at a time from a transformers model, so that a search can choose between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from stepcredit.engines.decoding import Draw, Drawing, NextStep, Piece, PieceEnd, Sampler, decode
from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.kv_cache import CachedRows, joined, padded_left
from stepcredit.episodes.steps import StepRule


@runtime_checkable
class Stepper(Protocol):
    """Anything that draws pieces. The draws depend on their keys alone, not on order, batch or cache."""

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """Begin with one sequence a prompt: rows 0, 1, 2, …"""
        ...

    def draw(self, draws: Sequence[Draw]) -> list[Piece]:
        """One piece each, going on from the kept rows, which stay."""
        ...

    def keep(self, chosen: Sequence[int]) -> None:
        """From now on the rows are the sequences that end in these pieces of the last `draw`."""
        ...


@runtime_checkable
class TurnStepper(Stepper, Protocol):
    """A stepper whose rows can go on with ids that it did not draw: observations."""

    def extend(self, more: Sequence[Sequence[int]]) -> None:
        """Append ids to each kept row, as many as there are, also none; the next draws go on from there."""
        ...


class CachedStepper:
    """Pieces from a transformers model: a prompt is read once, every token decoded once; rows that have ended wait,
    outside the batch once they are half of it, and the kept ones take their caches along. An observation is read in
    the same pass as the token before it.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        params: temperature, filters and stop strings (the lengths are the draws').
        rule: where a step ends.
        end_ids: ids that end a response.
    """

    def __init__(
        self, model: Any, tokenizer: Any, params: SamplingParams, rule: StepRule, end_ids: frozenset[int]
    ) -> None:
        self.model = model
        self.end = PieceEnd(tokenizer, params.stop, rule, end_ids)
        self.sampler = Sampler(params)
        self.rows: CachedRows
        self.last: list[int] = []
        self._unread: list[list[int]] = []
        self._logits: Tensor | None = None
        self._next: list[NextStep | None] = []
        self._drawing: Drawing
        self._parked: list[tuple[list[int], Any]] = []

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """See `Stepper.start`."""
        self.rows = CachedRows.empty(self.model, len(prompts))
        ids, mask = padded_left(prompts, self.model.device)
        self._logits = self.rows.read(ids, mask, logits_to_keep=1).logits[:, -1]
        self.last = [prompt[-1] for prompt in prompts]
        self._unread = [[] for _ in prompts]
        self._next = [None] * len(prompts)

    @torch.inference_mode()
    def draw(self, draws: Sequence[Draw]) -> list[Piece]:
        """See `Stepper.draw`."""
        index = torch.tensor([draw.row for draw in draws], device=self.model.device)
        logits = self._next_logits()[index]
        rows = self.rows.selected(index)
        before, seen = [self.last[draw.row] for draw in draws], [self._next[draw.row] for draw in draws]
        self._drawing = Drawing(draws, before, self.end, seen)
        self._parked = []
        decode(rows, logits, self._drawing, self.sampler, lambda pieces, rows: self._parked.append((pieces, rows)))
        return self._drawing.pieces()

    def keep(self, chosen: Sequence[int]) -> None:
        """See `Stepper.keep`."""
        place = {piece: k for k, piece in enumerate(chosen)}
        parts, order = [], []
        for members, rows in self._parked:
            wanted = [k for k, piece in enumerate(members) if piece in place]
            if wanted:
                parts.append(rows.selected(torch.tensor(wanted)))
                order += [place[members[k]] for k in wanted]
        self.rows = joined(parts).selected(torch.tensor(order).argsort()).compacted()
        self.last = [self._drawing.ids[piece][-1] for piece in chosen]
        self._next = [self._drawing.next[piece] for piece in chosen]
        self._unread = [[] if known else [token] for known, token in zip(self._next, self.last, strict=True)]
        self._logits, self._parked = self._known_logits(), []

    def _known_logits(self) -> Tensor | None:
        """The logits after the rows whose last token has been read; rubbish for the others."""
        known = [step.logits for step in self._next if step is not None]
        if not known:
            return None
        return torch.stack([known[0] if step is None else step.logits for step in self._next])

    def extend(self, more: Sequence[Sequence[int]]) -> None:
        """See `TurnStepper.extend`."""
        self._unread = [[*unread, *ids] for unread, ids in zip(self._unread, more, strict=True)]
        self.last = [ids[-1] if ids else last for last, ids in zip(self.last, more, strict=True)]

    def _next_logits(self) -> Tensor:
        """The logits after each kept row; reads what has not been read of them yet."""
        if any(self._unread):
            ids, mask = padded_left(self._unread, self.model.device)
            logits = self.rows.read(ids, mask, logits_to_keep=1).logits[:, -1]
            if self._logits is not None:  # some rows may have had nothing to read
                logits = torch.where(mask.any(-1, keepdim=True), logits, self._logits)
            self._logits, self._unread = logits, [[] for _ in self._unread]
        assert self._logits is not None
        return self._logits
