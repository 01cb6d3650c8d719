"""Responses drawn a step at a time, so that a search can choose between steps.

A *piece* is what is drawn between two choices: one reasoning step, or its part up to a limit, or the end of the
response. A step ends with the token that completes a delimiter; white space before its first word ends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.noise import uniform
from stepcredit.engines.rows import CachedRows, joined, padded_left
from stepcredit.engines.sampling import choose, warpers
from stepcredit.episodes.alignment import PieceReader
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import StepRule


@dataclass(frozen=True)
class Draw:
    """A piece to be drawn.

    Attributes:
        row: which of the kept sequences it goes on.
        key: of its noise (`stepcredit.engines.noise.stream_key`).
        written: tokens of the response so far: the noise's position of the first one drawn.
        room: at most so many tokens in this piece.
        left: at most so many until the length limit of the response.
        tail: the last characters of the response so far, for stop strings.
    """

    row: int
    key: np.uint64
    written: int
    room: int
    left: int
    tail: str = ""


@dataclass(frozen=True)
class Piece:
    """What was drawn.

    Attributes:
        ids: token ids, end token included.
        log_prob: log μ(a|s) of each.
        stop_reason: why the response ended, or None where it goes on.
        text: of the ids without the end token.
    """

    ids: tuple[int, ...]
    log_prob: tuple[float, ...]
    stop_reason: StopReason | None
    text: str


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


class PieceEnd:
    """When a piece ends: at an end id, a stop string, a step's delimiter, or a limit."""

    def __init__(self, tokenizer: Any, params: SamplingParams, rule: StepRule, end_ids: frozenset[int]) -> None:
        self._reader = PieceReader(tokenizer)
        self._params, self._rule = params, rule
        self.end_ids = end_ids

    def text_of(self, before: int, token: int) -> str:
        """The text that a token adds after another one; an end token adds none."""
        return "" if token in self.end_ids else self._reader([before, token])[1]

    def check(self, draw: Draw, count: int, token: int, text: str) -> tuple[bool, StopReason | None]:
        """(whether the piece ends here, why the response does)."""
        if token in self.end_ids or any(stop in draw.tail + text for stop in self._params.stop):
            return True, StopReason.STOP
        if count >= draw.left:
            return True, StopReason.LENGTH
        inside = text.lstrip()
        return count >= draw.room or any(delimiter in inside for delimiter in self._rule.delimiters), None


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
        self.end = PieceEnd(tokenizer, params, rule, end_ids)
        self.chain = warpers(params)
        self.greedy = params.temperature == 0
        self.rows: CachedRows
        self.last: list[int] = []
        self._unread: list[list[int]] = []
        self._logits: Tensor | None = None
        self._pieces: list[Piece] = []
        self._parked: list[tuple[list[int], CachedRows]] = []

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """See `Stepper.start`."""
        self.rows = CachedRows.empty(self.model, len(prompts))
        ids, mask = padded_left(prompts, self.model.device)
        self._logits = self.rows.read(ids, mask, logits_to_keep=1).logits[:, -1]
        self.last = [prompt[-1] for prompt in prompts]
        self._unread = [[] for _ in prompts]

    @torch.inference_mode()
    def draw(self, draws: Sequence[Draw]) -> list[Piece]:
        """See `Stepper.draw`."""
        index = torch.tensor([draw.row for draw in draws], device=self.model.device)
        logits = self._next_logits()[index]
        rows = self.rows.selected(index)
        drawing = Drawing(draws, [self.last[draw.row] for draw in draws], self.end)
        held = list(range(len(draws)))
        self._parked = []
        while True:
            drawing.record(*self._choose(logits, drawing))
            if not drawing.active:
                break
            if len(drawing.active) <= len(held) // 2:
                held, rows = self._park(held, rows, drawing)
            logits = self._read(held, rows, drawing)
        self._parked.append((held, rows))
        self._pieces = drawing.pieces()
        return self._pieces

    def _park(self, held: list[int], rows: CachedRows, drawing: Drawing) -> tuple[list[int], CachedRows]:
        """The rows that still grow; the others wait aside. A copy, and so not made for every row that ends."""
        grows = set(drawing.active)
        aside = [k for k, piece in enumerate(held) if piece not in grows]
        going = [k for k, piece in enumerate(held) if piece in grows]
        self._parked.append(([held[k] for k in aside], rows.selected(torch.tensor(aside))))
        return [held[k] for k in going], rows.selected(torch.tensor(going))

    def _read(self, held: Sequence[int], rows: CachedRows, drawing: Drawing) -> Tensor:
        """Read the last token of each piece that grows; its next logits. Ended pieces read nothing."""
        grows = set(drawing.active)
        mask = torch.tensor([[int(piece in grows)] for piece in held], device=self.model.device)
        ids = torch.tensor([[drawing.ids[piece][-1]] for piece in held], device=self.model.device)
        logits: Tensor = rows.read(ids, mask, logits_to_keep=1).logits[:, -1]
        return logits[mask[:, 0].bool()]

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
        self.last = [self._pieces[piece].ids[-1] for piece in chosen]
        self._unread = [[token] for token in self.last]
        self._logits, self._parked = None, []

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

    def _choose(self, logits: Tensor, drawing: Drawing) -> tuple[list[int], list[float]]:
        noise = None if self.greedy else torch.from_numpy(drawing.noise()).to(logits.device)
        token, log_prob = choose(logits, noise, self.chain)
        return token.tolist(), log_prob.tolist()


class Drawing:
    """The pieces of one `draw` while they grow; `active` are those that still do."""

    def __init__(self, draws: Sequence[Draw], before: Sequence[int], end: PieceEnd) -> None:
        self.draws, self.before, self.end = draws, before, end
        self.active = list(range(len(draws)))
        self.ids: list[list[int]] = [[] for _ in draws]
        self.log_prob: list[list[float]] = [[] for _ in draws]
        self.text = [""] * len(draws)
        self.reason: list[StopReason | None] = [None] * len(draws)

    def noise(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """One uniform number for each active piece."""
        keys = np.array([self.draws[k].key for k in self.active], dtype=np.uint64)
        return uniform(keys, np.array([self.draws[k].written + len(self.ids[k]) for k in self.active]))

    def record(self, tokens: Sequence[int], log_probs: Sequence[float]) -> None:
        """Add a token to each active piece; those that end with it are active no longer."""
        going = []
        for k, token, log_prob in zip(self.active, tokens, log_probs, strict=True):
            previous = self.ids[k][-1] if self.ids[k] else self.before[k]
            self.ids[k].append(token)
            self.log_prob[k].append(log_prob)
            self.text[k] += self.end.text_of(previous, token)
            ended, self.reason[k] = self.end.check(self.draws[k], len(self.ids[k]), token, self.text[k])
            if not ended:
                going.append(k)
        self.active = going

    def pieces(self) -> list[Piece]:
        """All of them, ended."""
        return [
            Piece(tuple(i), tuple(p), r, t)
            for i, p, r, t in zip(self.ids, self.log_prob, self.reason, self.text, strict=True)
        ]
