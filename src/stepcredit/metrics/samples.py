"""pass@k and maj@k of several responses per problem."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float


def pass_at_k(right: Bool[np.ndarray, "B K"], k: int) -> Float[np.ndarray, " B"]:
    """Returns, per problem, the probability that one of k responses, sampled without replacement from K, is right.

    The estimate 1 − C(K−c, k) / C(K, k), with c right responses among K, is unbiased, unlike 1 − (1 − c/K)^k.

    Args:
        right: whether each response to each problem is right.
        k: from 1 to K.

    Raises:
        ValueError: k is not from 1 to K.

    Source: Chen et al., "Evaluating large language models trained on code" (arXiv 2107.03374), equation 1.
    """
    samples = right.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}, but there are {samples} responses; choose from 1 to {samples}")
    wrong = samples - right.sum(axis=1)
    steps = np.arange(k)
    none_right: Float[np.ndarray, " B"] = np.prod(np.clip(wrong[:, None] - steps, 0, None) / (samples - steps), axis=1)
    return 1.0 - none_right


def majority_at_k(
    answers: Sequence[Sequence[Hashable | None]], right: Bool[np.ndarray, "B K"], k: int
) -> Float[np.ndarray, " B"]:
    """Returns, per problem, how often the most frequent answer among k responses is right, over disjoint groups of k.

    The groups are the first k responses, the next k, and so on; a remainder is ignored. Of equally frequent answers
    the first counts. None is no answer and has no vote; a group without votes is not right.

    Args:
        answers: the answer of each response; equal objects count as the same answer.
        right: whether each response is right.
        k: from 1 to K.

    Raises:
        ValueError: k is not from 1 to K.
    """
    samples = right.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}, but there are {samples} responses; choose from 1 to {samples}")
    starts = range(0, samples - k + 1, k)
    return np.array(
        [
            np.mean([_majority_is_right(row[s : s + k], flags[s : s + k]) for s in starts])
            for row, flags in zip(answers, right, strict=True)
        ],
        dtype=np.float64,
    )


def _majority_is_right(answers: Sequence[Hashable | None], right: Bool[np.ndarray, " K"]) -> bool:
    votes: dict[Hashable, list[int]] = {}
    for at, answer in enumerate(answers):
        if answer is not None:
            votes.setdefault(answer, []).append(at)
    if not votes:
        return False
    return bool(right[max(votes.values(), key=len)[0]])


def powers_of_two(limit: int) -> list[int]:
    """Returns 1, 2, 4, … up to `limit`."""
    return [2**e for e in range(limit.bit_length()) if 2**e <= limit]
