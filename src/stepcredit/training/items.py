"""Dataset items: how the episodes of a run are grouped into training examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepcredit.episodes.alignment import Trajectory, splice
from stepcredit.episodes.trajectories import Trajectories
from stepcredit.errors import InputError

Item = tuple[Trajectory, ...]
"""One training example: one trajectory or two. All items of a run have equally many."""
Indices = NDArray[np.int64]
"""The indices of the trajectories of each item, [N, rows per item]."""


class BatchLayout(NamedTuple):
    """How episodes are grouped into items.

    Attributes:
        rows_per_item: the number of trajectories in an item.
        indices: picks the trajectories of each item from all of them, given a config.
        splices: whether the second row of an item is the prompt of its first trajectory with the response of its
            second one.
        statistics_rows: the number of trailing trajectories of an item that have no loss: they only enter
            `Method.step_statistics`, which is computed without gradient over the whole optimizer step.
    """

    rows_per_item: int
    indices: Callable[[Trajectories, Any], Indices]
    splices: bool = False
    statistics_rows: int = 0

    def items(self, trajectories: Trajectories, config: Any) -> Items:
        """Returns the items of trajectories."""
        return Items(trajectories, self.indices(trajectories, config), self.splices)


class Items(Sequence[Item]):
    """The items of a run, which are read from their file when they are needed.

    Args:
        trajectories: the trajectories of a run.
        indices: those of each item.
        splices: as in `BatchLayout`.
    """

    def __init__(self, trajectories: Trajectories, indices: Indices, splices: bool = False) -> None:
        self.trajectories, self._indices, self._splices = trajectories, indices, splices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int | np.int64) -> Item:  # type: ignore[override]
        rows = tuple(self.trajectories[k] for k in self._indices[index])
        return (rows[0], splice(*rows)) if self._splices else rows

    @property
    def lengths(self) -> NDArray[np.int32]:
        """The tokens of the longest row of each, [N]."""
        lengths = self.trajectories.lengths[self._indices]
        if self._splices:
            before = self.trajectories.prompt_lengths[self._indices]
            lengths[:, 1] += before[:, 0] - before[:, 1]
        longest: NDArray[np.int32] = lengths.max(1)
        return longest

    @property
    def prompts(self) -> NDArray[np.int64]:
        """The number of the prompt of each one's first row, [N]."""
        return self.trajectories.select(self._indices[:, 0]).prompts


def each(trajectories: Trajectories, config: Any) -> Indices:
    """Picks every trajectory, for an item of its own."""
    return np.arange(len(trajectories))[:, None]


def preference_pairs(trajectories: Trajectories, config: Any) -> Indices:
    """Picks (right, wrong) responses to the same prompt, at most `config.max_pairs_per_prompt` pairs per prompt.

    Pairs are sampled at random, seeded by `config.seed` and the order of the episodes. A response may occur in several
    pairs; prompts with only right or only wrong responses give no pair.

    Raises:
        InputError: no prompt has both a right and a wrong response.
    """
    rng = np.random.default_rng([config.seed, 2])
    is_right = trajectories.outcomes >= config.reward_threshold

    def sampled() -> Iterator[int]:
        for indices in trajectories.by_prompt():
            right, wrong = indices[is_right[indices]], indices[~is_right[indices]]
            for k in rng.permutation(len(right) * len(wrong))[: config.max_pairs_per_prompt]:
                yield from (right[k // len(wrong)], wrong[k % len(wrong)])

    pairs = np.fromiter(sampled(), np.int64).reshape(-1, 2)
    if not len(pairs):
        raise InputError(
            "no prompt has both a right and a wrong response, so there are no pairs; right is a reward of at least "
            f"{config.reward_threshold:g} (--reward_threshold)",
            "train_dataset",
        )
    return pairs


def mismatched_pairs(trajectories: Trajectories, config: Any) -> Indices:
    """Picks (episode, another one) whose prompt and response are joined, for KTO's KL baseline.

    In a random order seeded by `config.seed`, the other one is the next episode of another prompt whose response fits
    `config.max_length` after this prompt.

    Raises:
        InputError: an episode has no such response.
    """
    order = np.random.default_rng([config.seed, 3]).permutation(len(trajectories)).tolist()
    prompts, before = trajectories.prompts.tolist(), trajectories.prompt_lengths.tolist()
    after = (trajectories.lengths - trajectories.prompt_lengths).tolist()
    others = np.empty(len(order), dtype=np.int64)
    for place, index in enumerate(order):
        limit = np.inf if config.max_length is None else config.max_length - before[index]
        following = (order[(place + k) % len(order)] for k in range(1, len(order)))
        other = next((o for o in following if prompts[o] != prompts[index] and after[o] <= limit), None)
        if other is None:
            raise InputError(
                f"prompt {trajectories[index].prompt_id}: the KL baseline needs a response to another prompt that fits "
                "max_length; add prompts or raise --max_length", "train_dataset",
            )  # fmt: skip
        others[index] = other
    return np.stack([np.arange(len(others)), others], axis=1)


SINGLE = BatchLayout(1, each)
PAIRS = BatchLayout(2, preference_pairs)
MISMATCHED = BatchLayout(2, mismatched_pairs, splices=True, statistics_rows=1)
