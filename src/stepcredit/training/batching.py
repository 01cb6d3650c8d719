"""From encoded episodes to batches: items of one, a pair or a mismatched response; their order; their tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from stepcredit.episodes.alignment import Trajectory, collate, spliced
from stepcredit.errors import InputError

Item = tuple[Trajectory, ...]
"""What one entry of the training data holds. All entries of a run hold equally many."""


class BatchLayout(NamedTuple):
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


def with_mismatched(episodes: Sequence[Trajectory], config: Any) -> list[Item]:
    """(an episode, its prompt with the response to another prompt): mismatched on purpose, for KTO's KL baseline.

    The other response is the next one to another prompt, in an order keyed by `config.seed`, for which prompt and
    response together keep within `config.max_length`.

    Raises:
        InputError: an episode for which there is none.
    """
    order = np.random.default_rng([config.seed, 3]).permutation(len(episodes))
    items: dict[int, Item] = {}
    for place, index in enumerate(order):
        episode = episodes[index]
        followers = (episodes[order[(place + k) % len(order)]] for k in range(1, len(order)))
        spliced_ones = (spliced(episode, other) for other in followers if other.prompt_id != episode.prompt_id)
        fitting = (s for s in spliced_ones if config.max_length is None or len(s) <= config.max_length)
        mismatched = next(fitting, None)
        if mismatched is None:
            raise InputError("no response to another prompt fits this one: the KL baseline needs them", "train_dataset")
        items[int(index)] = (episode, mismatched)
    return [items[k] for k in range(len(episodes))]


ALONE = BatchLayout(1, alone)
PAIRS = BatchLayout(2, in_pairs)
MISMATCHED = BatchLayout(2, with_mismatched, surveyed=1)


class Collator:
    """A list of dataset items as the dict of tensors of an `episodes.alignment.Batch`.

    Rows are the first trajectory of every item, then the second of every item, and so on.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch, by field name."""
        columns = zip(*(item["trajectories"] for item in items), strict=True)
        return collate([t for column in columns for t in column], self.pad_token_id).to_dict()


class LengthSortedSampler(Sampler[int]):
    """Random optimizer steps, each sorted by length within itself.

    Which episodes share an optimizer step is uniformly random, keyed by (seed, epoch) alone, so that a
    resumed run sees the same order; only inside a step are they sorted, so micro-batches pad little and the
    gradient is the one an unsorted step would have.

    Args:
        lengths: tokens of each episode.
        per_step: episodes of one optimizer step, over all micro-batches and processes.
        seed: of the order.
        sort: off gives the plain random order.
    """

    def __init__(self, lengths: Sequence[int], per_step: int, seed: int, sort: bool = True) -> None:
        self.lengths = np.asarray(lengths)
        self.per_step = per_step
        self.seed = seed
        self.sort = sort
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).numpy()
        for start in range(0, len(order), self.per_step):
            step = order[start : start + self.per_step]
            yield from (step[np.argsort(self.lengths[step], kind="stable")] if self.sort else step).tolist()
