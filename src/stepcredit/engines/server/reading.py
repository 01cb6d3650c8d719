"""A continuation that a server samples, read token by token with `engines.decoding.ContinuationText`.

A server is asked for more until the continuation has ended: it may stop at an end token of its own that is none of the
policy's, and of a step the end often shows only in the token after it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stepcredit.engines.decoding import TRIES, Continuation, ContinuationRequest, ContinuationText, EndConditions
from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.noise import uniform
from stepcredit.engines.server.answers import Ask, Proof
from stepcredit.engines.server.connection import Server
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import OpenStep


class StoredToken(NamedTuple):
    """First token of the next step, its log-probability, and the step before it."""

    token: int
    log_prob: float
    step: OpenStep


class OpenContinuation:
    """A continuation in progress.

    Args:
        draw: the request.
        before: the token before it.
        end: the end conditions.

    Attributes:
        ids: the tokens so far.
        over: whether it has ended.
        next: the first token of the next step, if it was sampled.
    """

    def __init__(self, draw: ContinuationRequest, before: int, end: EndConditions) -> None:
        self.draw, self.end = draw, end
        self.ids: list[int] = []
        self.over = False
        self.next: StoredToken | None = None
        self._last, self._log_prob, self._text = before, list[float](), ContinuationText(draw.tail, end)
        self._stopped = self._reused = False

    def reuse(self, stored: StoredToken) -> None:
        """Begins with a token that was sampled before."""
        self._reused = True
        self.add(stored.token, stored.log_prob)

    @property
    def room(self) -> int:
        """Number of tokens to ask for: one, where only the next token tells whether the step is over."""
        room = self.draw.left - len(self.ids)
        if self._text.step.ends_before("x"):
            return 1
        limit = self.end.rule.max_tokens
        return room if limit is None else min(room, limit - self._text.step.tokens)

    def add(self, token: int, log_prob: float) -> None:
        """Reads a token: it belongs to the continuation, or begins the next step."""
        stopped, begins, full = self._text.read(self._last, token)
        if begins:
            self.next, self.over = StoredToken(token, log_prob, self._text.step), True
            return
        self.ids.append(token)
        self._log_prob.append(log_prob)
        self._last, self._stopped = token, stopped
        self.over = stopped or full or len(self.ids) >= self.draw.left

    def read(self) -> Continuation:
        """Returns the continuation, after it has ended."""
        ended = (
            StopReason.STOP
            if self._stopped
            else StopReason.LENGTH
            if self.next is None and len(self.ids) >= self.draw.left
            else None
        )
        return Continuation(
            ids=tuple(self.ids),
            log_prob=tuple(self._log_prob),
            stop_reason=ended,
            text=self._text.text,
            drawn=len(self.ids) + (self.next is not None) - self._reused,
            following=None if self.next is None else self.next.token,
        )


class Continuer:
    """Samples continuations from a server.

    Args:
        params: sampling parameters.
        end: the end conditions.
        proof: check of the answers.
    """

    def __init__(self, params: SamplingParams, end: EndConditions, proof: Proof) -> None:
        self._params, self._end, self._proof = params, end, proof
        self._stop = (*params.stop, *end.rule.delimiters)
        self._ends = tuple(sorted(end.end_ids))

    async def sampled(
        self, server: Server, before: tuple[int, ...], draw: ContinuationRequest, stored: StoredToken | None = None
    ) -> OpenContinuation:
        """Samples one continuation.

        Args:
            server: the server.
            before: ids before it.
            draw: the request.
            stored: the stored first token, if there is one. It is used unless the request asks for a fresh one, which
                is sampled until it begins a step too; greedy decoding always uses it.

        Raises:
            Failure: no answer, or one that is not what was asked for.
            ServerError: the server refuses the request.
        """
        grown = OpenContinuation(draw, before[-1], self._end)
        if stored is not None:
            if draw.fresh and self._params.temperature > 0:
                for attempt in range(TRIES + 1):
                    ((first, log_prob),) = await self._asked(server, before, grown, attempt, most=1)
                    if first not in self._end.end_ids and stored.step.ends_before(self._end.text_of(before[-1], first)):
                        grown.add(first, log_prob)
                        break
                else:
                    grown.add(stored.token, stored.log_prob)
            else:
                grown.reuse(stored)
        while not grown.over:
            _extend(grown, await self._asked(server, before, grown))
        return grown

    async def _asked(
        self,
        server: Server,
        before: tuple[int, ...],
        grown: OpenContinuation,
        attempt: int = 0,
        most: int | None = None,
    ) -> list[tuple[int, float]]:
        """Asks for more, for `most` tokens at most; returns (token, log-probability) pairs, which are proved."""
        draw = grown.draw
        position = np.array([draw.written + len(grown.ids) + (attempt << 32)])
        noise = uniform(np.array([draw.key], dtype=np.uint64), position)[0]
        ask = Ask(
            ids=(*before, *grown.ids),
            most=grown.room if most is None else most,
            params=self._params,
            stop=self._stop,
            ends=self._ends,
            seed=int(noise * 2**31),
            model=server.model,
        )
        dialect = server.dialect
        answer = dialect.read(await server.ask(dialect.path, dialect.payload(ask), _most_bytes(ask)), ask)
        self._proof.check(answer, ask)
        return [(i, float(number)) for i, number in zip(answer.ids, answer.log_prob, strict=True)]


def _most_bytes(ask: Ask) -> int:
    """Returns the size limit of an answer: its tokens with what is said of each, and the prompt's ids, which servers
    may repeat."""
    return 200_000 + 4_000 * ask.most + 16 * len(ask.ids)


def _extend(grown: OpenContinuation, pairs: list[tuple[int, float]]) -> None:
    """Adds the tokens up to the end of the continuation; what the server sampled after it is left out."""
    for token, log_prob in pairs:
        if grown.over:
            return
        grown.add(token, log_prob)
