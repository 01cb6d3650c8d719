"""Search results: finished responses, the chosen one, the cost and the tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stepcredit.episodes.episode import StopReason

AnswerOf = Callable[[str, "Response"], str | None]
"""(prompt id, finished response) → answer key for the vote, equal for equivalent answers; None for no vote."""


@dataclass(frozen=True)
class Response:
    """Finished or truncated response of a search.

    Attributes:
        ids: token ids, end token included.
        log_prob: log μ(a|s) of each token.
        stop_reason: `STOP`, or `LENGTH` for a truncated one, which is not an answer.
        value: score of the response; NaN if it was not scored.
        node: id of its node in the tree, or None.
    """

    ids: tuple[int, ...]
    log_prob: tuple[float, ...]
    stop_reason: StopReason
    value: float = float("nan")
    node: int | None = None


@dataclass
class Node:
    """Node of a search tree: one continuation.

    Attributes:
        id, parent: ids of the node and of its parent; None for the root.
        round: 0 for the root, then 1, 2, …
        text: text of the continuation.
        tokens: number of its tokens.
        value: value of the state it leads to.
        state: root, kept, pruned, finished or truncated.
        merged: number of further identical continuations.
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
    """Search result of one prompt.

    Attributes:
        chosen: the chosen response; None if none has finished.
        pool: all finished and truncated responses, in order of completion.
        tokens_generated: number of tokens sampled by the policy.
        tokens_scored: number of tokens read by the scorer, prompt included.
        error: reason why the search failed; `chosen` is then None.
        nodes: nodes of the search tree.
    """

    chosen: Response | None = None
    pool: list[Response] = field(default_factory=list)
    tokens_generated: int = 0
    tokens_scored: int = 0
    error: str | None = None
    nodes: list[Node] = field(default_factory=list)

    @property
    def finished(self) -> list[Response]:
        """Responses that were not truncated."""
        return [r for r in self.pool if r.stop_reason is StopReason.STOP]
