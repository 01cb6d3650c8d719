"""How unpaired episodes are laid out as what a method looks at together: alone, in pairs, or with a stranger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stepcredit.episodes.alignment import Trajectory, spliced
from stepcredit.errors import InputError

Item = tuple[Trajectory, ...]
"""What one entry of the training data holds. All entries of a run hold equally many."""


class Arrangement(NamedTuple):
    """How episodes become items.

    Attributes:
        rows: how many trajectories an item holds.
        items: the items made of a set of encoded episodes under a config.
        surveyed: of how many of the rows, the last ones, no loss is taken: they are looked at beforehand, over the
            whole optimizer step and without gradient (`Method.survey`).
    """

    rows: int
    items: Callable[[Sequence[Trajectory], Any], list[Item]]
    surveyed: int = 0


def alone(episodes: Sequence[Trajectory], config: Any) -> list[Item]:
    """Every episode by itself."""
    return [(e,) for e in episodes]


def in_pairs(episodes: Sequence[Trajectory], config: Any) -> list[Item]:
    """(a right response, a wrong one) to one prompt, at most `config.max_pairs_per_prompt` of each prompt.

    Which of all pairs are taken is random, keyed by `config.seed` and the order of the episodes. A response may be
    in several pairs; prompts with right or wrong responses alone give none.

    Raises:
        InputError: no prompt has both.
    """
    prompts: dict[str, dict[bool, list[Trajectory]]] = defaultdict(lambda: {True: [], False: []})
    for e in episodes:
        prompts[e.prompt_id][e.outcome >= config.reward_threshold].append(e)
    rng = np.random.default_rng([config.seed, 2])
    items: list[Item] = []
    for by_label in prompts.values():
        right, wrong = by_label[True], by_label[False]
        taken = rng.permutation(len(right) * len(wrong))[: config.max_pairs_per_prompt]
        items += [(right[k // len(wrong)], wrong[k % len(wrong)]) for k in taken]
    if not items:
        raise InputError("no prompt has a right and a wrong response: there is no pair", "train_dataset")
    return items


def with_strangers(episodes: Sequence[Trajectory], config: Any) -> list[Item]:
    """(an episode, its prompt with the response to another prompt): mismatched on purpose, for KTO's KL baseline.

    The stranger is the next response to another prompt, in an order keyed by `config.seed`, for which prompt and
    response together keep within `config.max_length`.

    Raises:
        InputError: an episode for which there is none.
    """
    order = np.random.default_rng([config.seed, 3]).permutation(len(episodes))
    items: dict[int, Item] = {}
    for place, index in enumerate(order):
        episode = episodes[index]
        followers = (episodes[order[(place + k) % len(order)]] for k in range(1, len(order)))
        strangers = (spliced(episode, other) for other in followers if other.prompt_id != episode.prompt_id)
        fitting = (s for s in strangers if config.max_length is None or len(s) <= config.max_length)
        stranger = next(fitting, None)
        if stranger is None:
            raise InputError("no response to another prompt fits this one: the KL baseline needs them", "train_dataset")
        items[int(index)] = (episode, stranger)
    return [items[k] for k in range(len(episodes))]


ALONE = Arrangement(1, alone)
PAIRS = Arrangement(2, in_pairs)
MISMATCHED = Arrangement(2, with_strangers, surveyed=1)
