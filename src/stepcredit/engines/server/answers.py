"""What is asked of a server, and the proof that its answer is what was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.server.connection import Failure, UnprovedError
from stepcredit.episodes.encoding import decode
from stepcredit.episodes.turns import TurnEnds
from stepcredit.errors import quoted

UNKNOWN = float("nan")
"""Log-probability that a server does not give."""
_ROUNDING = 1e-3
"""Log-probability by which rounding may exceed 0."""


@dataclass(frozen=True)
class Ask:
    """One request for a continuation.

    Attributes:
        ids: prompt and response so far.
        most: maximum number of tokens.
        params: temperature and filters.
        stop: strings that end the continuation.
        ends: ids that end it.
        seed: seed of the server's noise, below 2³¹.
        model: name of the policy on the server.
    """

    ids: tuple[int, ...]
    most: int
    params: SamplingParams
    stop: tuple[str, ...]
    ends: tuple[int, ...]
    seed: int
    model: str

    @property
    def is_plain(self) -> bool:
        """Whether log μ is the model's own log-probability: at temperature 1 without filters, and if greedy."""
        params = self.params
        return params.temperature == 0 or (params.temperature == 1 and params.top_p == 1 and params.top_k == 0)


@dataclass(frozen=True)
class Answer:
    """An answer as a dialect reads it, still unproved.

    Attributes:
        ids: the sampled ids, end token included.
        log_prob: log μ(a|s) of each; `UNKNOWN` where it is not given.
        text: the text that the server gives for the ids.
        cut: whether the server says that the length limit ended it.
        by_string: whether it says that a stop string did; `text` may then end before it or in the middle of a token.
    """

    ids: Sequence[Any]
    log_prob: Sequence[Any]
    text: Any
    cut: bool
    by_string: bool = False


def field(answer: Any, *path: str | int) -> Any:
    """Returns a part of an answer.

    Raises:
        Failure: it is not there.
    """
    part = answer
    for key in path:
        try:
            part = part[key]
        except (KeyError, IndexError, TypeError) as error:
            raise Failure(f"an answer without {'.'.join(map(str, path))}: {quoted(answer, 200)}") from error
    return part


def listed(answer: Any, *path: str | int) -> list[Any]:
    """Returns a part of an answer that must be a list; raises as `field`."""
    part = field(answer, *path)
    if not isinstance(part, list):
        raise Failure(f"{'.'.join(map(str, path))} is {quoted(part)}, not a list")
    return part


class Proof:
    """Check of answers with token ids.

    Args:
        tokenizer: the policy's tokenizer.
        ends: its end-of-turn tokens.
        vocabulary: number of ids.
    """

    def __init__(self, tokenizer: Any, ends: TurnEnds, vocabulary: int) -> None:
        self._tokenizer, self._special, self._vocabulary = tokenizer, ends.special, vocabulary

    def check(self, answer: Answer, ask: Ask) -> None:
        """Checks the number of ids, that they are ids of the policy, that their text is the server's, and that
        log-probabilities are such.

        Raises:
            UnprovedError: they are not.
        """
        ids, log_prob = answer.ids, answer.log_prob
        if not 1 <= len(ids) <= ask.most:
            raise UnprovedError(f"{len(ids)} tokens, where 1 to {ask.most} were asked for")
        if answer.cut and len(ids) < ask.most:
            raise UnprovedError(
                f"cut after {len(ids)} tokens, where {ask.most} were asked for (is its context too short?)"
            )
        for i in ids:
            if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < self._vocabulary:
                raise UnprovedError(f"{quoted(i)} is none of the policy's {self._vocabulary} token ids")
        if len(log_prob) != len(ids):
            raise UnprovedError(f"{len(log_prob)} log-probabilities for {len(ids)} tokens")
        for number in log_prob:
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if number is not UNKNOWN and not (is_number and -1e30 < number <= _ROUNDING):
                raise UnprovedError(f"{quoted(number)} is no log-probability")
        self._check_text(ids, answer, ask.stop)

    def _check_text(self, ids: Sequence[int], answer: Answer, stop: Sequence[str]) -> None:
        """The server's text is that of the ids, with or without special tokens or the end."""
        if not isinstance(answer.text, str):
            raise UnprovedError(f"a text that is {quoted(answer.text)}")
        words = [i for i in ids if i not in self._special]
        before_end = ids[:-1] if ids[-1] in self._special else ids
        own = [decode(some, self._tokenizer) for some in (ids, before_end, words)]
        text = answer.text
        if any(_are_same(text, other) for other in own):
            return
        if answer.by_string and any(_stops_at(text, other, stop) for other in own):
            return
        expected = quoted(decode(words, self._tokenizer), 80)
        raise UnprovedError(
            f"the text {quoted(answer.text, 80)} is not that of the ids, {expected}: another tokenizer?"
        )


def _stops_at(text: str, own: str, stop: Sequence[str]) -> bool:
    """Whether `own` continues `text` with a stop string, or `text` ends with one; some tokenizers drop a leading
    space."""
    for begun in {text, f" {text}", text.removeprefix(" ")}:
        rest = own.removeprefix(begun)
        if own.startswith(begun) and any(rest.startswith(s) or begun.endswith(s) for s in stop):
            return True
    return False


def _are_same(text: str, own: str) -> bool:
    """Whether two texts are the same, but for bytes that are no character, which are written in several ways, a leading
    space, and an unfinished character at the end, whose token some servers leave out with its space."""
    text, own = (re.sub("\ufffd+", "\ufffd", t).removeprefix(" ") for t in (text, own))
    if text == own:
        return True
    own_whole, whole = (t.removesuffix("\ufffd").rstrip() for t in (own, text))
    return "\ufffd" in (own[-1:], text[-1:]) and whole == own_whole
