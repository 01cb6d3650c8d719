"""Which of several responses to believe: the most valued, the one with the most frequent answer, or both together.

All functions return the index of a response, or None where there is none. Of equals the first counts, so that a choice
does not depend on chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def by_value(values: Sequence[float]) -> int | None:
    """The response with the highest value (best of K)."""
    return max(range(len(values)), key=lambda k: values[k], default=None)


def by_vote(answers: Sequence[str | None]) -> int | None:
    """The first response with the most frequent answer (majority vote, self-consistency).

    Args:
        answers: what each response votes for, equal for equal answers; None has no vote. Where nobody votes, the
            first response counts.

    Source: Wang et al., "Self-consistency improves chain of thought reasoning" (arXiv 2203.11171).
    """
    return _heaviest(answers, [1.0] * len(answers))


def by_weighted_vote(values: Sequence[float], answers: Sequence[str | None]) -> int | None:
    """The most valued response with the answer whose votes weigh most, each vote being worth max(V, 0).

    Source: Li et al., "Making language models better reasoners with step-aware verifier" (arXiv 2206.02336), eq. 1.
    """
    best = _heaviest(answers, [max(value, 0.0) for value in values])
    if best is None or answers[best] is None:
        return best
    alike = [k for k, answer in enumerate(answers) if answer == answers[best]]
    return max(alike, key=lambda k: values[k])


def _heaviest(answers: Sequence[str | None], weights: Sequence[float]) -> int | None:
    """The first response with the answer of the largest total weight."""
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
"""Searches that choose from sampled responses, by name: values and answers to the index of a response."""
