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

_TRIES = 32
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
        self.rule = rule
        self.end_ids = end_ids

    def text_of(self, before: int, token: int) -> str:
        """Returns the text that a token adds after the token before it; empty for an end token."""
        if self._reader is None or token in self.end_ids:
            return ""
        return self._reader([before, token])[1]

    def ends_response(self, token: int, text: str) -> bool:
        """Whether a response ends with this token, `text` being the text up to and including it."""
        return token in self.end_ids or any(stop in text for stop in self._stop)


class Sampler:
    """Samples next tokens from logits with temperature, top-k and top-p; greedy at temperature 0."""

    def __init__(self, params: SamplingParams) -> None:
        self.greedy = params.temperature == 0
        self._chain = warpers(params)

    def __call__(self, logits: Float[Tensor, "N V"], noise: NDArray[np.float64]) -> tuple[list[int], list[float]]:
        """Returns (token, log-probability) per row; `noise` is one uniform number per row, [N]."""
        uniforms = None if self.greedy else torch.from_numpy(noise).to(logits.device)
        token, log_prob = choose(logits, uniforms, self._chain)
        return token.tolist(), log_prob.tolist()


class DecodingState:
    """State of a batch of continuations during decoding; `active` lists the unfinished ones.

    Args:
        draws: the requests.
        before: the token before each continuation.
        end: the end conditions.
        stored: the stored first token of each continuation, or None; None stands for no stored tokens at all.
    """

    def __init__(
        self,
        draws: Sequence[ContinuationRequest],
        before: Sequence[int],
        end: EndConditions,
        stored: Sequence[NextStep | None] | None = None,
    ) -> None:
        self.draws, self.before, self.end = draws, before, end
        self.stored = list(stored) if stored is not None else [None] * len(draws)
        self.active = list(range(len(draws)))
        self.ids: list[list[int]] = [[] for _ in draws]
        self.log_prob: list[list[float]] = [[] for _ in draws]
        self.text = [""] * len(draws)
        self.step = [OpenStep(end.rule) for _ in draws]
        self.reason: list[StopReason | None] = [None] * len(draws)
        self.reused = [False] * len(draws)
        self.next: list[NextStep | None] = [None] * len(draws)

    def noise(self, pieces: Sequence[int] | None = None, attempt: int = 0) -> NDArray[np.float64]:
        """Returns one uniform number per continuation (None: the active ones); it differs between attempts."""
        pieces = self.active if pieces is None else pieces
        keys = np.array([self.draws[k].key for k in pieces], dtype=np.uint64)
        written = np.array([self.draws[k].written + len(self.ids[k]) for k in pieces], dtype=np.int64)
        return uniform(keys, written + (attempt << 32))

    def first(self, logits: Tensor, sampler: Sampler) -> tuple[list[int], list[float]]:
        """Returns the first token of each continuation and its log-probability.

        A stored token is reused unless the request asks for a fresh one, which is sampled until it begins a step too;
        greedy decoding always reuses it.
        """
        tokens, log_probs = sampler(logits, self.noise())
        self.reused = [
            s is not None and (sampler.greedy or not d.fresh) for s, d in zip(self.stored, self.draws, strict=True)
        ]
        fresh = [k for k, stored in enumerate(self.stored) if stored is not None and not self.reused[k]]
        for attempt in range(1, _TRIES + 1):
            fresh = [k for k in fresh if not self._begins_step(k, tokens[k])]
            if not fresh:
                break
            for k, token, log_prob in zip(fresh, *sampler(logits[fresh], self.noise(fresh, attempt)), strict=True):
                tokens[k], log_probs[k] = token, log_prob
        for k, stored in enumerate(self.stored):
            if stored is not None and (self.reused[k] or not self._begins_step(k, tokens[k])):
                tokens[k], log_probs[k] = stored.token, stored.log_prob
        return tokens, log_probs

    def _begins_step(self, k: int, token: int) -> bool:
        """Whether this token, too, begins a new step after the completed one."""
        stored = self.stored[k]
        ends = token in self.end.end_ids
        return stored is not None and not ends and stored.step.ends_before(self.end.text_of(self.before[k], token))

    def record(self, tokens: Sequence[int], log_probs: Sequence[float], logits: Tensor) -> None:
        """Append the sampled token to each active continuation, and deactivate those that it ends."""
        pairs = zip(self.active, tokens, log_probs, logits, strict=True)
        self.active = [k for k, token, log_prob, row in pairs if self._append(k, token, log_prob, row)]

    def _append(self, k: int, token: int, log_prob: float, logits: Tensor) -> bool:
        """Append a token to one continuation; returns whether it needs another one."""
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

    def pieces(self) -> list[Continuation]:
        """Returns the continuations, after decoding."""
        return [self._piece(k) for k in range(len(self.draws))]

    def _piece(self, k: int) -> Continuation:
        following = self.next[k]
        return Continuation(
            ids=tuple(self.ids[k]),
            log_prob=tuple(self.log_prob[k]),
            stop_reason=self.reason[k],
            text=self.text[k],
            drawn=len(self.ids[k]) + (following is not None) - self.reused[k],
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
    in_batch = list(range(len(state.draws)))
    chosen = state.first(logits, sampler)
    while True:
        state.record(*chosen, logits)
        if not state.active:
            break
        active = set(state.active)
        if len(active) < len(in_batch) and (aside is None or len(active) <= len(in_batch) // 2):
            ended, going = ([k for k, index in enumerate(in_batch) if (index in active) is on] for on in (False, True))
            if aside is not None:
                aside([in_batch[k] for k in ended], cache.selected(torch.tensor(ended)))
            in_batch, cache = [in_batch[k] for k in going], cache.selected(torch.tensor(going))
        logits = cache.read_on([state.ids[k][-1] for k in in_batch], [k in active for k in in_batch])
        chosen = sampler(logits, state.noise())
    if aside is not None:
        aside(in_batch, cache)
