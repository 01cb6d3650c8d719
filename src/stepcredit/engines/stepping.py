"""Step-wise generation from a transformers model, so that a search can choose between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from stepcredit.engines.decoding import (
    Continuation,
    ContinuationRequest,
    DecodingState,
    EndConditions,
    NextStep,
    Sampler,
    decode,
)
from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.kv_cache import CachedSequences, joined, padded_left
from stepcredit.episodes.steps import StepRule


@runtime_checkable
class Stepper(Protocol):
    """Interface of step-wise generation. Samples depend on the noise keys alone, not on order, batch or cache."""

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """Set the sequences to the prompts: rows 0, 1, 2, …"""
        ...

    def draw(self, draws: Sequence[ContinuationRequest]) -> list[Continuation]:
        """Returns one continuation per request; the sequences stay as they are."""
        ...

    def keep(self, chosen: Sequence[int]) -> None:
        """Set the sequences to those that end in these continuations of the last `draw`."""
        ...


@runtime_checkable
class TurnStepper(Stepper, Protocol):
    """Stepper that can also append tokens it did not sample, such as observations."""

    def extend(self, more: Sequence[Sequence[int]]) -> None:
        """Append ids, possibly none, to each sequence."""
        ...


class CachedStepper:
    """Stepper of a transformers model with a KV cache.

    Every token is processed once, and sequences that are kept keep their caches. Finished continuations leave the batch
    once they are half of it. An observation is processed in the same forward pass as the token before it.

    Args:
        model: the policy.
        tokenizer: tokenizer of the policy.
        params: temperature, filters and stop strings (length limits are set per request).
        rule: rule for the end of a step.
        end_ids: token ids that end a response.
    """

    def __init__(
        self, model: Any, tokenizer: Any, params: SamplingParams, rule: StepRule, end_ids: frozenset[int]
    ) -> None:
        self.model = model
        self.end = EndConditions(tokenizer, params.stop, rule, end_ids)
        self.sampler = Sampler(params)
        self.rows: CachedSequences
        self.last: list[int] = []
        self._unread: list[list[int]] = []
        self._logits: Tensor | None = None
        self._next: list[NextStep | None] = []
        self._drawing: DecodingState
        self._parked: list[tuple[list[int], Any]] = []

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """See `Stepper.start`."""
        self.rows = CachedSequences.empty(self.model, len(prompts))
        ids, mask = padded_left(prompts, self.model.device)
        self._logits = self.rows.read(ids, mask, logits_to_keep=1).logits[:, -1]
        self.last = [prompt[-1] for prompt in prompts]
        self._unread = [[] for _ in prompts]
        self._next = [None] * len(prompts)

    @torch.inference_mode()
    def draw(self, draws: Sequence[ContinuationRequest]) -> list[Continuation]:
        """See `Stepper.draw`."""
        index = torch.tensor([draw.row for draw in draws], device=self.model.device)
        logits = self._next_logits()[index]
        rows = self.rows.selected(index)
        before, stored = [self.last[draw.row] for draw in draws], [self._next[draw.row] for draw in draws]
        self._drawing = DecodingState(draws, before, self.end, stored)
        self._parked = []
        decode(rows, logits, self._drawing, self.sampler, lambda ended, cache: self._parked.append((ended, cache)))
        return self._drawing.pieces()

    def keep(self, chosen: Sequence[int]) -> None:
        """See `Stepper.keep`."""
        place = {index: k for k, index in enumerate(chosen)}
        parts, order = [], []
        for members, cache in self._parked:
            selected = [k for k, index in enumerate(members) if index in place]
            if selected:
                parts.append(cache.selected(torch.tensor(selected)))
                order += [place[members[k]] for k in selected]
        self.rows = joined(parts).selected(torch.tensor(order).argsort()).compacted()
        self.last = self._drawing.last[list(chosen)].tolist()
        self._next = [self._drawing.next[index] for index in chosen]
        self._unread = [[] if step else [token] for step, token in zip(self._next, self.last, strict=True)]
        self._logits, self._parked = self._stored_logits(), []

    def _stored_logits(self) -> Tensor | None:
        """Returns the logits of sequences whose last token was processed, [N, V]; undefined for the others."""
        stored = [step.logits for step in self._next if step is not None]
        if not stored:
            return None
        return torch.stack([stored[0] if step is None else step.logits for step in self._next])

    def extend(self, more: Sequence[Sequence[int]]) -> None:
        """See `TurnStepper.extend`."""
        self._unread = [[*unread, *ids] for unread, ids in zip(self._unread, more, strict=True)]
        self.last = [ids[-1] if ids else last for last, ids in zip(self.last, more, strict=True)]

    def _next_logits(self) -> Tensor:
        """Returns the next-token logits of each sequence, after processing its pending tokens, [N, V]."""
        if any(self._unread):
            ids, mask = padded_left(self._unread, self.model.device)
            logits = self.rows.read(ids, mask, logits_to_keep=1).logits[:, -1]
            if self._logits is not None:  # some sequences may have had no pending tokens
                logits = torch.where(mask.any(-1, keepdim=True), logits, self._logits)
            self._logits, self._unread = logits, [[] for _ in self._unread]
        assert self._logits is not None
        return self._logits
