"""Responses drawn a step at a time, so that a search can choose between steps.

A *piece* is what is drawn between two choices: one reasoning step, or the end of the response. Where a step ends is
`episodes.steps.OpenStep`'s to say, as in training. It often shows only in the token that begins the next step ("." may
go on as "5" or as " Then"), so that token is drawn, kept aside, and no part of the piece. Of several continuations one
goes on with it; each of the others draws its own, given that a step begins, which leaves every response distributed as
the policy has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.noise import uniform
from stepcredit.engines.rows import CachedRows, joined, padded_left
from stepcredit.engines.sampling import choose, warpers
from stepcredit.episodes.alignment import PieceReader
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import OpenStep, StepRule

_TRIES = 32
"""Draws of a token that begins a step, before the one that is known to begin it is taken."""


@dataclass(frozen=True)
class Draw:
    """A piece to be drawn.

    Attributes:
        row: which of the kept sequences it goes on.
        key: of its noise (`stepcredit.engines.noise.stream_key`).
        written: tokens of the response so far: the noise's position of the first one drawn.
        left: at most so many tokens; a piece that has them is cut.
        tail: the last characters of the response so far, for stop strings.
        fresh: draw a first token of its own, where the row knows one that begins the step.
    """

    row: int
    key: np.uint64
    written: int
    left: int
    tail: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Piece:
    """What was drawn.

    Attributes:
        ids: token ids, end token included.
        log_prob: log μ(a|s) of each.
        stop_reason: why the response ended, or None where it goes on with another step.
        text: of the ids without the end token.
        drawn: tokens drawn for it: one more than `ids` where the next step's first was seen, one less where its own
            first had been.
        following: the token that was seen to begin the next step, where one was.
    """

    ids: tuple[int, ...]
    log_prob: tuple[float, ...]
    stop_reason: StopReason | None
    text: str
    drawn: int
    following: int | None = None


class NextStep(NamedTuple):
    """How a step was seen to end: the token that begins the next one, its log-probability, the logits that it was
    drawn from, and the step before it."""

    token: int
    log_prob: float
    logits: Tensor
    step: OpenStep


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
    """When a response ends, and where its steps do.

    Args:
        tokenizer: of the policy.
        stop: strings that end a response.
        rule: where a step ends.
        end_ids: ids that end a response.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], rule: StepRule, end_ids: frozenset[int]) -> None:
        self._reader = PieceReader(tokenizer)
        self._stop = tuple(stop)
        self.rule = rule
        self.end_ids = end_ids

    def text_of(self, before: int, token: int) -> str:
        """The text that a token adds after another one; an end token adds none."""
        return "" if token in self.end_ids else self._reader([before, token])[1]

    def ends_response(self, token: int, text: str) -> bool:
        """Whether a response ends with this token, whose text and all before it is `text`."""
        return token in self.end_ids or any(stop in text for stop in self._stop)


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
        self.chain = warpers(params)
        self.greedy = params.temperature == 0
        self.rows: CachedRows
        self.last: list[int] = []
        self._unread: list[list[int]] = []
        self._logits: Tensor | None = None
        self._next: list[NextStep | None] = []
        self._drawing: Drawing
        self._parked: list[tuple[list[int], CachedRows]] = []

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
        drawing = Drawing(draws, before, self.end, seen)
        held = list(range(len(draws)))
        self._parked = []
        chosen = drawing.first(logits, self._choose, self.greedy)
        while True:
            drawing.record(*chosen, logits)
            if not drawing.active:
                break
            if len(drawing.active) <= len(held) // 2:
                held, rows = self._park(held, rows, drawing)
            logits = self._read(held, rows, drawing)
            chosen = self._choose(logits, drawing.noise())
        self._parked.append((held, rows))
        self._drawing = drawing
        return drawing.pieces()

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

    def _choose(self, logits: Tensor, noise: NDArray[np.float64]) -> tuple[list[int], list[float]]:
        token, log_prob = choose(logits, None if self.greedy else torch.from_numpy(noise).to(logits.device), self.chain)
        return token.tolist(), log_prob.tolist()


Choose = Callable[[Tensor, NDArray[np.float64]], tuple[list[int], list[float]]]
"""(logits [N, V], uniform numbers [N]) → a token each, and its log-probability."""


class Drawing:
    """The pieces of one `draw` while they grow; `active` are those that still do.

    Args:
        draws: what is asked for.
        before: the last token before each.
        end: when a piece ends.
        seen: for each, how the step before it was seen to end, where it was; None: none of them.
    """

    def __init__(
        self, draws: Sequence[Draw], before: Sequence[int], end: PieceEnd, seen: Sequence[NextStep | None] | None = None
    ) -> None:
        self.draws, self.before, self.end = draws, before, end
        self.seen = list(seen) if seen is not None else [None] * len(draws)
        self.active = list(range(len(draws)))
        self.ids: list[list[int]] = [[] for _ in draws]
        self.log_prob: list[list[float]] = [[] for _ in draws]
        self.text = [""] * len(draws)
        self.step = [OpenStep(end.rule) for _ in draws]
        self.reason: list[StopReason | None] = [None] * len(draws)
        self.known = [False] * len(draws)
        self.next: list[NextStep | None] = [None] * len(draws)

    def noise(self, pieces: Sequence[int] | None = None, attempt: int = 0) -> NDArray[np.float64]:
        """One uniform number for each of some pieces (None: the active ones); another one for each attempt."""
        pieces = self.active if pieces is None else pieces
        keys = np.array([self.draws[k].key for k in pieces], dtype=np.uint64)
        written = np.array([self.draws[k].written + len(self.ids[k]) for k in pieces], dtype=np.int64)
        return uniform(keys, written + (attempt << 32))

    def first(self, logits: Tensor, choose: Choose, greedy: bool) -> tuple[list[int], list[float]]:
        """The first token of each piece, with its log-probability: where the step before it was seen to end, the token
        that showed it, or a fresh one that begins a step as well (greedily, it is the same one)."""
        tokens, log_probs = choose(logits, self.noise())
        self.known = [s is not None and (greedy or not d.fresh) for s, d in zip(self.seen, self.draws, strict=True)]
        fresh = [k for k, seen in enumerate(self.seen) if seen is not None and not self.known[k]]
        for attempt in range(1, _TRIES + 1):
            fresh = [k for k in fresh if not self._begins(k, tokens[k])]
            if not fresh:
                break
            for k, token, log_prob in zip(fresh, *choose(logits[fresh], self.noise(fresh, attempt)), strict=True):
                tokens[k], log_probs[k] = token, log_prob
        for k, seen in enumerate(self.seen):
            if seen is not None and (self.known[k] or not self._begins(k, tokens[k])):
                tokens[k], log_probs[k] = seen.token, seen.log_prob
        return tokens, log_probs

    def _begins(self, k: int, token: int) -> bool:
        """Whether a piece that begins with this token begins a step, after one that was seen to end."""
        seen = self.seen[k]
        ends = token in self.end.end_ids
        return seen is not None and not ends and seen.step.begun_by(self.end.text_of(self.before[k], token))

    def record(self, tokens: Sequence[int], log_probs: Sequence[float], logits: Tensor) -> None:
        """Add a token to each active piece, drawn from these logits; those that it ends are active no longer."""
        pairs = zip(self.active, tokens, log_probs, logits, strict=True)
        self.active = [k for k, token, log_prob, row in pairs if self._goes_on(k, token, log_prob, row)]

    def _goes_on(self, k: int, token: int, log_prob: float, logits: Tensor) -> bool:
        """Add a token to one piece; whether it needs another."""
        text = self.end.text_of(self.ids[k][-1] if self.ids[k] else self.before[k], token)
        ended = self.end.ends_response(token, self.draws[k].tail + self.text[k] + text)
        if not ended and self.ids[k] and self.step[k].begun_by(text):
            self.next[k] = NextStep(token, log_prob, logits.clone(), self.step[k])
            return False
        self.ids[k].append(token)
        self.log_prob[k].append(log_prob)
        self.text[k] += text
        self.step[k].add(text)
        if ended or len(self.ids[k]) >= self.draws[k].left:
            self.reason[k] = StopReason.STOP if ended else StopReason.LENGTH
            return False
        return not self.step[k].full

    def pieces(self) -> list[Piece]:
        """All of them, ended."""
        return [self._piece(k) for k in range(len(self.draws))]

    def _piece(self, k: int) -> Piece:
        seen = self.next[k]
        return Piece(
            ids=tuple(self.ids[k]),
            log_prob=tuple(self.log_prob[k]),
            stop_reason=self.reason[k],
            text=self.text[k],
            drawn=len(self.ids[k]) + (seen is not None) - self.known[k],
            following=None if seen is None else seen.token,
        )
