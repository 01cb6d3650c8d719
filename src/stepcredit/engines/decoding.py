"""The one loop that draws tokens, for plain generation and for searches: choose, stop, drop rows, read on.

A *piece* is what is drawn at a time: a whole response, or a reasoning step of one, so that a search can choose between
steps. Where a step ends is `episodes.steps.OpenStep`'s to say, as in training. It often shows only in the token that
begins the next step ("." may go on as "5" or as " Then"), so that token is drawn, kept aside, and no part of the piece.
Of several continuations one goes on with it; each of the others draws its own, given that a step begins, which leaves
every response distributed as the policy has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.kv_cache import Rows
from stepcredit.engines.noise import uniform
from stepcredit.engines.sampling import choose, warpers
from stepcredit.episodes.alignment import TokenTexts
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


class PieceEnd:
    """When a response ends, and where its steps do.

    Args:
        tokenizer: of the policy; None where nobody asks for text: no stop strings, and no delimiters.
        stop: strings that end a response.
        rule: where a step ends.
        end_ids: ids that end a response.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], rule: StepRule, end_ids: frozenset[int]) -> None:
        self._reader = None if tokenizer is None else TokenTexts(tokenizer)
        self._stop = tuple(stop)
        self.rule = rule
        self.end_ids = end_ids

    def text_of(self, before: int, token: int) -> str:
        """The text that a token adds after another one; a token that ends a response adds none."""
        if self._reader is None or token in self.end_ids:
            return ""
        return self._reader([before, token])[1]

    def ends_response(self, token: int, text: str) -> bool:
        """Whether a response ends with this token, whose text and all before it is `text`."""
        return token in self.end_ids or any(stop in text for stop in self._stop)


class Sampler:
    """Draws the next tokens from logits: temperature, filters, and one uniform number each; greedy without them."""

    def __init__(self, params: SamplingParams) -> None:
        self.greedy = params.temperature == 0
        self._chain = warpers(params)

    def __call__(self, logits: Float[Tensor, "N V"], noise: NDArray[np.float64]) -> tuple[list[int], list[float]]:
        """(a token for each row, its log-probability)."""
        given = None if self.greedy else torch.from_numpy(noise).to(logits.device)
        token, log_prob = choose(logits, given, self._chain)
        return token.tolist(), log_prob.tolist()


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

    def first(self, logits: Tensor, sampler: Sampler) -> tuple[list[int], list[float]]:
        """The first token of each piece, with its log-probability: where the step before it was seen to end, the token
        that showed it, or a fresh one that begins a step as well (greedily, it is the same one)."""
        tokens, log_probs = sampler(logits, self.noise())
        self.known = [
            s is not None and (sampler.greedy or not d.fresh) for s, d in zip(self.seen, self.draws, strict=True)
        ]
        fresh = [k for k, seen in enumerate(self.seen) if seen is not None and not self.known[k]]
        for attempt in range(1, _TRIES + 1):
            fresh = [k for k in fresh if not self._begins(k, tokens[k])]
            if not fresh:
                break
            for k, token, log_prob in zip(fresh, *sampler(logits[fresh], self.noise(fresh, attempt)), strict=True):
                tokens[k], log_probs[k] = token, log_prob
        for k, seen in enumerate(self.seen):
            if seen is not None and (self.known[k] or not self._begins(k, tokens[k])):
                tokens[k], log_probs[k] = seen.token, seen.log_prob
        return tokens, log_probs

    def _begins(self, k: int, token: int) -> bool:
        """Whether a piece that begins with this token begins a step, after one that was seen to end."""
        seen = self.seen[k]
        ends = token in self.end.end_ids
        return seen is not None and not ends and seen.step.ends_before(self.end.text_of(self.before[k], token))

    def record(self, tokens: Sequence[int], log_probs: Sequence[float], logits: Tensor) -> None:
        """Add a token to each active piece, drawn from these logits; those that it ends are active no longer."""
        pairs = zip(self.active, tokens, log_probs, logits, strict=True)
        self.active = [k for k, token, log_prob, row in pairs if self._goes_on(k, token, log_prob, row)]

    def _goes_on(self, k: int, token: int, log_prob: float, logits: Tensor) -> bool:
        """Add a token to one piece; whether it needs another."""
        text = self.end.text_of(self.ids[k][-1] if self.ids[k] else self.before[k], token)
        ended = self.end.ends_response(token, self.draws[k].tail + self.text[k] + text)
        if not ended and self.ids[k] and self.step[k].ends_before(text):
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


def decode(
    rows: Rows,
    logits: Float[Tensor, "N V"],
    drawing: Drawing,
    sampler: Sampler,
    aside: Callable[[list[int], Rows], None] | None = None,
) -> None:
    """Draw until every piece has ended.

    1. Choose a token for each piece that grows.
    2. Those that end with it leave the batch: at once where nobody goes on from them; where a search may, they wait in
       the batch, reading nothing, until they are half of it, for moving them aside is a copy.
    3. Read the tokens of the others.

    Args:
        rows: what the model has read before each piece, one row each.
        logits: after each row.
        drawing: the pieces; they are in it when this returns.
        sampler: chooses tokens.
        aside: takes the rows of ended pieces, with the numbers of the pieces. All of a piece's tokens but its last have
            been read by then, and the last as well where the next step's first token was seen. None: they are dropped.
    """
    held = list(range(len(drawing.draws)))
    chosen = drawing.first(logits, sampler)
    while True:
        drawing.record(*chosen, logits)
        if not drawing.active:
            break
        grows = set(drawing.active)
        if len(grows) < len(held) and (aside is None or len(grows) <= len(held) // 2):
            ended, going = ([k for k, piece in enumerate(held) if (piece in grows) is on] for on in (False, True))
            if aside is not None:
                aside([held[k] for k in ended], rows.selected(torch.tensor(ended)))
            held, rows = [held[k] for k in going], rows.selected(torch.tensor(going))
        logits = rows.read_on([drawing.ids[piece][-1] for piece in held], [piece in grows for piece in held])
        chosen = sampler(logits, drawing.noise())
    if aside is not None:
        aside(held, rows)
