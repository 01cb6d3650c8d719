"""Dataset items, their order within an epoch, and their collation into padded tensors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from stepcredit.episodes.alignment import Trajectory, collate, splice
from stepcredit.episodes.prefixes import collate_shared
from stepcredit.errors import InputError
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.precompute import Precomputed

Item = tuple[Trajectory, ...]
"""One training example: one trajectory or two. All items of a run have the same length."""


class BatchLayout(NamedTuple):
    """How episodes are grouped into items.

    Attributes:
        rows_per_item: the number of trajectories in an item.
        items: builds the items from encoded episodes and a config.
        statistics_rows: the number of trailing trajectories of an item that have no loss: they only enter
            `Method.step_statistics`, which is computed without gradient over the whole optimizer step.
    """

    rows_per_item: int
    items: Callable[[Sequence[Trajectory], Any], list[Item]]
    statistics_rows: int = 0


def single_items(episodes: Sequence[Trajectory], config: Any) -> list[Item]:
    """Returns one item per episode."""
    return [(e,) for e in episodes]


def preference_pairs(episodes: Sequence[Trajectory], config: Any) -> list[Item]:
    """Returns (right, wrong) response pairs to the same prompt, at most `config.max_pairs_per_prompt` per prompt.

    Pairs are sampled at random, seeded by `config.seed` and the order of the episodes. A response may occur in several
    pairs; prompts with only right or only wrong responses give no pair.

    Raises:
        InputError: no prompt has both a right and a wrong response.
    """
    prompts: dict[str, dict[bool, list[Trajectory]]] = defaultdict(lambda: {True: [], False: []})
    for e in episodes:
        prompts[e.prompt_id][e.outcome >= config.reward_threshold].append(e)
    rng = np.random.default_rng([config.seed, 2])
    items: list[Item] = []
    for by_label in prompts.values():
        right, wrong = by_label[True], by_label[False]
        sampled = rng.permutation(len(right) * len(wrong))[: config.max_pairs_per_prompt]
        items += [(right[k // len(wrong)], wrong[k % len(wrong)]) for k in sampled]
    if not items:
        raise InputError(
            "no prompt has both a right and a wrong response, so there are no pairs; right is a reward of at least "
            f"{config.reward_threshold:g} (--reward_threshold)",
            "train_dataset",
        )
    return items


def mismatched_pairs(episodes: Sequence[Trajectory], config: Any) -> list[Item]:
    """Returns (episode, its prompt with a response to another prompt) items, for KTO's KL baseline.

    The mismatched response is the next one to another prompt, in a random order seeded by `config.seed`, with which
    the sequence stays within `config.max_length`.

    Raises:
        InputError: an episode has no such response.
    """
    order = np.random.default_rng([config.seed, 3]).permutation(len(episodes))
    items: dict[int, Item] = {}
    for place, index in enumerate(order):
        episode = episodes[index]
        others = (episodes[order[(place + k) % len(order)]] for k in range(1, len(order)))
        candidates = (splice(episode, other) for other in others if other.prompt_id != episode.prompt_id)
        within_length = (c for c in candidates if config.max_length is None or len(c) <= config.max_length)
        mismatched = next(within_length, None)
        if mismatched is None:
            raise InputError(
                f"prompt {episode.prompt_id}: the KL baseline needs a response to another prompt that fits max_length; "
                "add prompts or raise --max_length", "train_dataset",
            )  # fmt: skip
        items[int(index)] = (episode, mismatched)
    return [items[k] for k in range(len(episodes))]


SINGLE = BatchLayout(1, single_items)
PAIRS = BatchLayout(2, preference_pairs)
MISMATCHED = BatchLayout(2, mismatched_pairs, statistics_rows=1)


PADDING = "padding"
"""Marks items and micro-batches that give every process of a run as many micro-batches as the others."""


class Collator:
    """Collates dataset items into the tensors of an `episodes.alignment.Batch`, padded on the right.

    The rows are the first trajectory of every item, then the second of every item, and so on. Padding items
    (`EvenSampler`) are left out. A micro-batch of nothing else keeps one, and is marked (`weight_of`).

    Args:
        pad_token_id: fills the padding.
        share_prompts: whether each prompt is in the batch once (`episodes.prefixes`).

    Attributes:
        precomputed: adds fields that were computed before training.
    """

    def __init__(self, pad_token_id: int, share_prompts: bool = False) -> None:
        self.pad_token_id = pad_token_id
        self.share_prompts = share_prompts
        self.precomputed: Precomputed | None = None

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Returns the batch as a dict by field name."""
        real = [item for item in items if not item.get(PADDING)]
        columns = zip(*(item["trajectories"] for item in real or items[:1]), strict=True)
        rows = [t for column in columns for t in column]
        if self.share_prompts:
            batch = collate_shared(rows, self.pad_token_id)
        else:
            batch = collate(rows, self.pad_token_id).to_dict()
        if any(t.group_number is not None for t in rows):
            batch["group_number"] = torch.tensor([math.nan if t.group_number is None else t.group_number for t in rows])
        if self.precomputed is not None:
            batch.update(self.precomputed.fields(rows, batch if self.share_prompts else None))
        if not real:
            batch[PADDING] = [True] * len(rows)
        return batch


def weight_of(batch: dict[str, Any]) -> float:
    """Returns 0 for a micro-batch of padding, which only keeps the processes in step, and 1 for all others."""
    return 0.0 if PADDING in batch else 1.0


def sampler_of(items: Sequence[Item], args: OfflineConfig, batch_size: int, processes: int = 1) -> EvenSampler:
    """Returns the order of items in a run; each optimizer step has the same ones whatever the number of processes.

    Args:
        items: the items.
        args: the config of the run.
        batch_size: the items of a micro-batch of a process.
        processes: the number of processes.
    """
    seed = args.data_seed if args.data_seed is not None else args.seed
    prompts = [item[0].prompt_id for item in items] if args.share_prompts else None
    per_step = batch_size * args.gradient_accumulation_steps * processes
    lengths = [max(len(t) for t in item) for item in items]
    sampler = LengthSortedSampler(lengths, per_step, seed, sort=args.length_sorted, prompts=prompts)
    return even(sampler, items, batch_size, 1 if args.dataloader_drop_last else processes)


def even(sampler: Sampler[int], items: Sequence[Item], batch_size: int, processes: int) -> EvenSampler:
    """Returns a sampler that gives each of several processes as many micro-batches of some size as the others."""
    shortest = min(range(len(items)), key=lambda k: max(len(t) for t in items[k]), default=0)
    return EvenSampler(sampler, 1 if processes == 1 else batch_size * processes, shortest)


class EvenSampler(Sampler[int]):
    """Adds padding to an epoch, up to a multiple of a number; otherwise accelerate would repeat items, which would then
    count twice.

    Args:
        sampler: the order of the items.
        multiple: the number.
        item: the item k that pads, as index ~k (`training.data.TrainingData`).
    """

    def __init__(self, sampler: Sampler[int], multiple: int, item: int) -> None:
        self.sampler, self.multiple, self.item = sampler, multiple, item

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the order, where it has some."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.multiple) * self.multiple  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from [~self.item] * (len(self) - len(self.sampler))  # type: ignore[arg-type]


class LengthSortedSampler(Sampler[int]):
    """Samples optimizer steps uniformly at random and sorts the items of each step by length.

    The order depends only on (seed, epoch), so a resumed run sees the same one. Sorting within a step reduces the
    padding of micro-batches and leaves the gradient of the step unchanged.

    Args:
        lengths: the tokens of each item.
        per_step: the items of one optimizer step, over all micro-batches and processes.
        seed: the seed of the order.
        sort: whether to sort each step by length.
        prompts: the prompt of each item, whose items stay together; None samples single items.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        per_step: int,
        seed: int,
        sort: bool = True,
        prompts: Sequence[str] | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.per_step = per_step
        self.seed = seed
        self.sort = sort
        self.epoch = 0
        groups: dict[Any, list[int]] = defaultdict(list)
        for k in range(len(self.lengths)):
            groups[k if prompts is None else prompts[k]].append(k)
        self._groups = list(groups.values())

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; accelerate calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        order = [k for g in torch.randperm(len(self._groups), generator=generator).tolist() for k in self._groups[g]]
        group_of = {k: g for g, group in enumerate(self._groups) for k in group}
        for start in range(0, len(order), self.per_step):
            step = order[start : start + self.per_step]
            if self.sort:
                longest: dict[int, int] = defaultdict(int)
                for k in step:
                    longest[group_of[k]] = max(longest[group_of[k]], int(self.lengths[k]))
                place = {g: n for n, g in enumerate(dict.fromkeys(group_of[k] for k in step))}
                step = sorted(step, key=lambda k: (longest[group_of[k]], place[group_of[k]], self.lengths[k]))
            yield from step
