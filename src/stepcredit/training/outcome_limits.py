"""Which of a prompt's responses are trained on: at most so many of each outcome, and no more right than wrong ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from stepcredit.episodes.alignment import Trajectory


def balanced(episodes: Sequence[Trajectory], most: int, threshold: float, seed: int) -> list[Trajectory]:
    """At most `most` right and `most` wrong responses of every prompt, in the order they came in.

    Of the right ones no more are kept than there are wrong ones, but always one if there is any. OREO's 7B runs keep
    at most 4 of each outcome out of 16 (arXiv 2412.16145, experiments): 4 and 4 of 8 right and 8 wrong, 3 and 3 of
    13 and 3, 1 and 0 of 16 and 0, 3 and 4 of 3 and 13.

    Which ones are kept is random, keyed by the seed and the order of the episodes.

    Args:
        episodes: encoded responses of any number of prompts.
        most: of each outcome.
        threshold: a response is right if its outcome is at least this.
        seed: of the draw.
    """
    prompts: dict[str, dict[bool, list[int]]] = defaultdict(lambda: {True: [], False: []})
    for index, episode in enumerate(episodes):
        prompts[episode.prompt_id][episode.outcome >= threshold].append(index)
    rng = np.random.default_rng([seed, 4])
    kept: list[int] = []
    for by_label in prompts.values():
        right, wrong = by_label[True], by_label[False]
        kept += [right[k] for k in rng.permutation(len(right))[: min(most, max(len(wrong), 1))]]
        kept += [wrong[k] for k in rng.permutation(len(wrong))[:most]]
    return [episodes[index] for index in sorted(kept)]
