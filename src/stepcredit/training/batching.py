"""The order of dataset items within an epoch, and their collation into padded tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from stepcredit.episodes.alignment import collate
from stepcredit.episodes.prefixes import collate_shared
from stepcredit.training.items import Items
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.precompute import Precomputed

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


def sampler_of(items: Items, args: OfflineConfig, batch_size: int, processes: int = 1) -> EvenSampler:
    """Returns the order of items in a run; each optimizer step has the same ones whatever the number of processes.

    Args:
        items: the items.
        args: the config of the run.
        batch_size: the items of a micro-batch of a process.
        processes: the number of processes.
    """
    seed = args.data_seed if args.data_seed is not None else args.seed
    groups = items.prompts if args.share_prompts else None
    per_step = batch_size * args.gradient_accumulation_steps * processes
    sampler = LengthSortedSampler(items.lengths, per_step, seed, sort=args.length_sorted, groups=groups)
    return even(sampler, items, batch_size, 1 if args.dataloader_drop_last else processes)


def even(sampler: Sampler[int], items: Items, batch_size: int, processes: int) -> EvenSampler:
    """Returns a sampler that gives each of several processes as many micro-batches of some size as the others."""
    shortest = int(items.lengths.argmin())
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
        groups: a number for each item, from 0 on without a gap; items of one number stay together. None: all differ.
    """

    def __init__(
        self, lengths: ArrayLike, per_step: int, seed: int, sort: bool = True, groups: ArrayLike | None = None
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.per_step = per_step
        self.seed = seed
        self.sort = sort
        self.epoch = 0
        self._groups = np.arange(len(self.lengths)) if groups is None else np.asarray(groups)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; accelerate calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        count = int(self._groups.max(initial=-1)) + 1
        place = np.argsort(torch.randperm(count, generator=generator).numpy())
        order = np.argsort(place[self._groups], kind="stable")
        for start in range(0, len(order), self.per_step):
            step = order[start : start + self.per_step]
            yield from (self._sorted(step, place) if self.sort else step).tolist()

    def _sorted(self, step: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sorts the items of a step: groups by their longest item, then items by length."""
        group, length = self._groups[step], self.lengths[step]
        numbers, inverse = np.unique(group, return_inverse=True)
        longest = np.zeros(len(numbers), dtype=length.dtype)
        np.maximum.at(longest, inverse, length)
        return step[np.lexsort((length, place[group], longest[inverse]))]
