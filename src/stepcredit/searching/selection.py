"""Selection among responses: highest value, majority vote, or value-weighted vote.

All functions return the index of a response, or None if there are no responses. Ties go to the first one, so the
choice is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def by_value(values: Sequence[float]) -> int | None:
    """Returns the response with the highest value (best of K)."""
    return max(range(len(values)), key=lambda k: values[k], default=None)


def by_vote(answers: Sequence[str | None]) -> int | None:
    """Returns the first response with the most frequent answer (majority vote, self-consistency).

    Args:
        answers: answer key of each response, equal for equivalent answers; None has no vote. If there is no vote at
            all, the first response is chosen.

    Source: Wang et al., "Self-consistency improves chain of thought reasoning" (arXiv 2203.11171).
    """
    return _heaviest(answers, [1.0] * len(answers))


def by_weighted_vote(values: Sequence[float], answers: Sequence[str | None]) -> int | None:
    """Returns the response of highest value among those with the answer of largest total weight, weights max(V, 0).

    Source: Li et al., "Making language models better reasoners with step-aware verifier" (arXiv 2206.02336), eq. 1.
    """
    best = _heaviest(answers, [max(value, 0.0) for value in values])
    if best is None or answers[best] is None:
        return best
    same_answer = [k for k, answer in enumerate(answers) if answer == answers[best]]
    return max(same_answer, key=lambda k: values[k])


def _heaviest(answers: Sequence[str | None], weights: Sequence[float]) -> int | None:
    """Returns the first response with the answer of largest total weight."""
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
    if not totals:
        return 0 if answers else None
    return list(answers).index(max(totals, key=lambda answer: totals[answer]))


CHOOSERS: dict[str, Callable[[Sequence[float], Sequence[str | None]], int | None]] = {
    "vote": lambda values, answers: by_vote(answers),
    "weighted-vote": by_weighted_vote,
    "best-of": lambda values, answers: by_value(values),
}
"""Search name → function from the values and answers of sampled responses to the index of the chosen one."""
