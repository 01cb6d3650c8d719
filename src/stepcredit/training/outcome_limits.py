"""Balancing of right and wrong responses per prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from stepcredit.episodes.alignment import Trajectory


def balanced(episodes: Sequence[Trajectory], limit: int, threshold: float, seed: int) -> list[Trajectory]:
    """Keeps at most `limit` right and `limit` wrong responses of each prompt, in their original order.

    Of the right responses at most as many are kept as there are wrong ones, but at least one if there is any. OREO's
    7B runs keep at most 4 of each outcome out of 16 (arXiv 2412.16145, experiments): (right, wrong) responses (8, 8)
    give (4, 4), (13, 3) give (3, 3), (16, 0) give (1, 0), and (3, 13) give (3, 4).

    The sample is random, seeded by `seed` and the order of the episodes.

    Args:
        episodes: encoded responses of any number of prompts.
        limit: the maximal number per outcome.
        threshold: a response is right if its outcome is at least this.
        seed: the seed of the sample.
    """
    prompts: dict[str, dict[bool, list[int]]] = defaultdict(lambda: {True: [], False: []})
    for index, episode in enumerate(episodes):
        prompts[episode.prompt_id][episode.outcome >= threshold].append(index)
    rng = np.random.default_rng([seed, 4])
    indices: list[int] = []
    for by_label in prompts.values():
        right, wrong = by_label[True], by_label[False]
        indices += [right[k] for k in rng.permutation(len(right))[: min(limit, max(len(wrong), 1))]]
        indices += [wrong[k] for k in rng.permutation(len(wrong))[:limit]]
    return [episodes[index] for index in sorted(indices)]
