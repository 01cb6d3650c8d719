"""Decoding loop of plain generation and of search: sample a token, check for the end, drop sequences, forward pass.

A *continuation* is the unit of sampling: a whole response, or one reasoning step of it, so that a search can choose
between steps. `episodes.steps.OpenStep` decides where a step ends, as in training. The end often shows only in the
first token of the next step ("." may continue as "5" or as " Then"). That token is sampled and stored, but is not part
of the continuation. Of several continuations of one sequence, one starts with the stored token; each of the others
samples its own, conditioned on starting a step. Every response thus keeps the distribution of the policy.
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
from stepcredit.engines.kv_cache import KVCache
from stepcredit.engines.noise import uniform
from stepcredit.engines.sampling import choose, warpers
from stepcredit.episodes.alignment import TokenTexts
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import OpenStep, StepRule

TRIES = 32
"""Attempts to sample a token that begins a step, before falling back to the stored one."""


@dataclass(frozen=True)
class ContinuationRequest:
    """Request for one continuation of a sequence.

    Attributes:
        row: index of the sequence to continue.
        key: noise key (`stepcredit.engines.noise.stream_key`).
        written: tokens of the response so far, which is the noise position of the first sampled token.
        left: maximum number of tokens; a continuation of this length is truncated.
        tail: last characters of the response so far, for stop strings.
        fresh: sample a new first token even if the sequence has a stored one.
    """

    row: int
    key: np.uint64
    written: int
    left: int
    tail: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Continuation:
    """A sampled continuation: a whole response or one step of it.

    Attributes:
        ids: token ids, end token included.
        log_prob: log μ(a|s) of each token.
        stop_reason: why the response ended; None if it continues with another step.
        text: text of the ids, without the end token.
        drawn: number of tokens sampled: one more than `ids` if the first token of the next step was sampled too, one
            less if its own first token was a stored one.
        following: the first token of the next step, if it was sampled.
    """

    ids: tuple[int, ...]
    log_prob: tuple[float, ...]
    stop_reason: StopReason | None
    text: str
    drawn: int
    following: int | None = None


class NextStep(NamedTuple):
    """First token of the next step, its log-probability, the logits it was sampled from, and the step before it."""

    token: int
    log_prob: float
    logits: Tensor
    step: OpenStep


class EndConditions:
    """End conditions of a response and of its steps.

    Args:
        tokenizer: tokenizer of the policy; None if no text is needed (no stop strings, no delimiters).
        stop: strings that end a response.
        rule: rule for the end of a step.
        end_ids: token ids that end a response.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], rule: StepRule, end_ids: frozenset[int]) -> None:
        self._reader = None if tokenizer is None else TokenTexts(tokenizer)
        self._stop = tuple(stop)
        self._reach = max(map(len, self._stop), default=1) - 1
        self._end_ids = np.array(sorted(end_ids), dtype=np.int64)
        self.rule = rule
        self.end_ids = end_ids

    @property
    def of_ids_alone(self) -> bool:
        """Whether the token ids decide where responses end, and these have one step."""
        return self._reader is None and self.rule == StepRule(())

    def text_of(self, before: int, token: int) -> str:
        """Returns the text that a token adds after the token before it; empty for an end token."""
        if self._reader is None or token in self.end_ids:
            return ""
        return self._reader([before, token])[1]

    def end_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each token ends a response by its id."""
        return np.isin(tokens, self._end_ids)

    def read_on(self, tail: str, text: str) -> tuple[bool, str]:
        """Returns whether a stop string ends in `text`, given the tail of the text before it, and the new tail."""
        seen = tail + text
        return any(stop in seen for stop in self._stop), seen[max(0, len(seen) - self._reach) :]


class ContinuationText:
    """The text of a continuation, read token by token: decides where a response and a step of it end.

    Args:
        tail: last characters of the response before it.
        end: the end conditions.

    Attributes:
        text: the text so far.
        step: the open step.
    """

    def __init__(self, tail: str, end: EndConditions) -> None:
        self.text, self.step = "", OpenStep(end.rule)
        self._tail, self._end, self._is_empty = tail, end, True

    def read(self, before: int, token: int) -> tuple[bool, bool, bool]:
        """Reads a token after the one before it; returns whether it ends the response, begins the next step, or
        completes the step by its length. A token that begins the next step is not part of the text."""
        text = self._end.text_of(before, token)
        stopped, tail = self._end.read_on(self._tail, text)
        stopped = stopped or token in self._end.end_ids
        if not stopped and not self._is_empty and self.step.ends_before(text):
            return False, True, False
        self.text += text
        self._tail, self._is_empty = tail, False
        self.step.add(text)
        return stopped, False, self.step.full


class Sampler:
    """Samples next tokens from logits with temperature, top-k and top-p; greedy at temperature 0."""

    def __init__(self, params: SamplingParams) -> None:
        self.greedy = params.temperature == 0
        self._chain = warpers(params)

    def __call__(
        self, logits: Float[Tensor, "N V"], noise: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns (token [N], log-probability [N]); `noise` is one uniform number per row, [N]."""
        uniforms = None if self.greedy else torch.from_numpy(noise).to(logits.device)
        token, log_prob = choose(logits, uniforms, self._chain)
        return token.cpu().numpy(), log_prob.cpu().numpy()


class DecodingState:
    """State of a batch of N continuations during decoding.

    Args:
        draws: the requests.
        before: the token before each continuation.
        end: the end conditions.
        stored: the stored first token of each continuation, or None; None stands for no stored tokens at all.

    Attributes:
        active: indices of the unfinished continuations, in the order of the logits of `record`.
        last: last token of each continuation, at first the one before it, [N].
        length: number of tokens of each continuation, [N].
        next: the first token of the next step of each continuation, if it was sampled.
    """

    def __init__(
        self,
        draws: Sequence[ContinuationRequest],
        before: Sequence[int],
        end: EndConditions,
        stored: Sequence[NextStep | None] | None = None,
    ) -> None:
        self.draws, self.end = draws, end
        self.stored = list(stored) if stored is not None else [None] * len(draws)
        self.active = np.arange(len(draws))
        self.last = np.array(before, dtype=np.int64)
        self.length = np.zeros(len(draws), dtype=np.int64)
        self.next: list[NextStep | None] = [None] * len(draws)
        self._key = np.array([draw.key for draw in draws], dtype=np.uint64)
        self._written = np.array([draw.written for draw in draws], dtype=np.int64)
        self._left = np.array([draw.left for draw in draws], dtype=np.int64)
        self._stopped = np.zeros(len(draws), dtype=np.bool_)
        self._reused = [False] * len(draws)
        self._recorded: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        self._texts = [ContinuationText(draw.tail, end) for draw in draws]

    def noise(self, pieces: Sequence[int] | None = None, attempt: int = 0) -> NDArray[np.float64]:
        """Returns one uniform number per continuation (None: the active ones); it differs between attempts."""
        at = self.active if pieces is None else np.asarray(pieces)
        return uniform(self._key[at], self._written[at] + self.length[at] + (attempt << 32))

    def first(self, logits: Tensor, sampler: Sampler) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns the first token of each continuation and its log-probability.

        A stored token is reused unless the request asks for a fresh one, which is sampled until it begins a step too;
        greedy decoding always reuses it.
        """
        tokens, log_probs = sampler(logits, self.noise())
        self._reused = [
            s is not None and (sampler.greedy or not d.fresh) for s, d in zip(self.stored, self.draws, strict=True)
        ]
        fresh = [k for k, stored in enumerate(self.stored) if stored is not None and not self._reused[k]]
        for attempt in range(1, TRIES + 1):
            fresh = [k for k in fresh if not self._begins_step(k, int(tokens[k]))]
            if not fresh:
                break
            tokens[fresh], log_probs[fresh] = sampler(logits[fresh], self.noise(fresh, attempt))
        for k, stored in enumerate(self.stored):
            if stored is not None and (self._reused[k] or not self._begins_step(k, int(tokens[k]))):
                tokens[k], log_probs[k] = stored.token, stored.log_prob
        return tokens, log_probs

    def _begins_step(self, k: int, token: int) -> bool:
        """Whether this token, too, begins a new step after the completed one."""
        stored = self.stored[k]
        ends = token in self.end.end_ids
        return stored is not None and not ends and stored.step.ends_before(self.end.text_of(int(self.last[k]), token))

    def record(self, tokens: NDArray[np.int64], log_probs: NDArray[np.float64], logits: Float[Tensor, "M V"]) -> None:
        """Append the sampled token to each active continuation, and deactivate those that it ends."""
        at, stopped = self.active, self.end.end_tokens(tokens)
        begins, full = np.zeros_like(stopped), np.zeros_like(stopped)
        if not self.end.of_ids_alone:
            for m, (k, token) in enumerate(zip(at.tolist(), tokens.tolist(), strict=True)):
                stopped[m], begins[m], full[m] = self._texts[k].read(int(self.last[k]), token)
        for m, k in zip(np.flatnonzero(begins).tolist(), at[begins].tolist(), strict=True):
            self.next[k] = NextStep(int(tokens[m]), float(log_probs[m]), logits[m].clone(), self._texts[k].step)
        kept = at[~begins]
        self._recorded.append((kept, tokens[~begins], log_probs[~begins]))
        self.last[kept] = tokens[~begins]
        self.length[kept] += 1
        self._stopped[at] = stopped
        self.active = at[~(stopped | begins | full | (self.length[at] >= self._left[at]))]

    def pieces(self) -> list[Continuation]:
        """Returns the continuations, after decoding."""
        rows, tokens, log_probs = (np.concatenate(column) for column in zip(*self._recorded, strict=True))
        order, ends = rows.argsort(kind="stable"), self.length.cumsum()[:-1]
        parts = zip(np.split(tokens[order], ends), np.split(log_probs[order], ends), strict=True)
        return [self._piece(k, *part) for k, part in enumerate(parts)]

    def _piece(self, k: int, ids: NDArray[np.int64], log_prob: NDArray[np.float64]) -> Continuation:
        following = self.next[k]
        ended = StopReason.STOP if self._stopped[k] else StopReason.LENGTH if len(ids) >= self._left[k] else None
        return Continuation(
            ids=tuple(ids.tolist()),
            log_prob=tuple(log_prob.tolist()),
            stop_reason=ended,
            text=self._texts[k].text,
            drawn=len(ids) + (following is not None) - self._reused[k],
            following=None if following is None else following.token,
        )


def decode(
    cache: KVCache,
    logits: Float[Tensor, "N V"],
    state: DecodingState,
    sampler: Sampler,
    aside: Callable[[list[int], KVCache], None] | None = None,
) -> None:
    """Decode until every continuation has ended.

    1. Sample a token for each active continuation.
    2. Remove finished continuations from the batch: at once if `aside` is None; otherwise they stay, masked out, until
       they are half of the batch, because moving their cache is a copy.
    3. Run the model on the new tokens of the others.

    Args:
        cache: KV cache of the sequences before each continuation, one row per continuation.
        logits: next-token logits of each row.
        state: state of the continuations, updated in place.
        sampler: samples the tokens.
        aside: receives the indices and the cache of finished continuations. The cache holds all of their tokens but the
            last, and the last too if the first token of the next step was sampled. None: the cache is dropped.
    """
    in_batch = np.arange(len(state.draws))
    chosen = state.first(logits, sampler)
    while True:
        state.record(*chosen, logits)
        if not len(state.active):
            break
        going = np.isin(in_batch, state.active)
        if len(state.active) < len(in_batch) and (aside is None or len(state.active) <= len(in_batch) // 2):
            if aside is not None:
                aside(in_batch[~going].tolist(), cache.selected(torch.from_numpy(np.flatnonzero(~going))))
            kept = _moved_up(going)
            cache, in_batch, going = cache.selected(torch.from_numpy(kept)), in_batch[kept], going[kept]
            state.active = in_batch
        logits = cache.read_on(state.last[in_batch], going)
        chosen = sampler(logits, state.noise())
    if aside is not None:
        aside(in_batch.tolist(), cache)


def _moved_up(going: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the indices of the rows that go on, the last ones in the places of those that do not: [3, 1] for 0101."""
    index = np.arange(going.sum())
    index[~going[: len(index)]] = np.flatnonzero(going)[going[: len(index)].sum() :]
    return index
