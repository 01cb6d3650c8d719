"""Result of a search: the responses that it ended, the one that it chose, its cost and its tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stepcredit.episodes.episode import StopReason

AnswerOf = Callable[[str, "Response"], str | None]
"""(prompt id, finished response) → what it votes for, equal for equal answers; None for no vote."""


@dataclass(frozen=True)
class Response:
    """A response that a search has ended.

    Attributes:
        ids: token ids, end token included.
        log_prob: log μ(a|s) of each id.
        stop_reason: `STOP`, or `LENGTH` for one that a limit cut, which is no answer.
        value: what the scorer said of it; NaN where it was not asked.
        node: its place in the trace, or None.
    """

    ids: tuple[int, ...]
    log_prob: tuple[float, ...]
    stop_reason: StopReason
    value: float = float("nan")
    node: int | None = None


@dataclass
class Node:
    """A piece that a search has looked at.

    Attributes:
        id, parent: its place in the tree; the root has no parent.
        round: 0 for the root, then 1, 2, …
        text: of the piece.
        tokens: in it.
        value: of the state it leads to.
        state: root, kept, pruned, finished or truncated.
        merged: how many more identical continuations of the same parent there were.
    """

    id: int
    parent: int | None
    round: int
    text: str
    tokens: int
    value: float
    state: str
    merged: int = 0


@dataclass
class SearchResult:
    """What a search came to for one prompt.

    Attributes:
        chosen: the response to answer with; None where none has finished.
        pool: all finished responses, and those that a limit cut, in the order they came.
        tokens_generated: drawn by the policy.
        tokens_scored: read by the scorer, the prompt included.
        error: why this prompt has no result; then `chosen` is None.
        nodes: the tree, where there is one.
    """

    chosen: Response | None = None
    pool: list[Response] = field(default_factory=list)
    tokens_generated: int = 0
    tokens_scored: int = 0
    error: str | None = None
    nodes: list[Node] = field(default_factory=list)

    @property
    def finished(self) -> list[Response]:
        """The responses that ended by themselves."""
        return [r for r in self.pool if r.stop_reason is StopReason.STOP]
