"""The micro-batches of a run: those of its episodes, in the order of training, or of responses of given lengths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from stepcredit.episodes.alignment import Trajectory
from stepcredit.episodes.prefixes import prefix_length
from stepcredit.episodes.trajectories import stored
from stepcredit.models.activation_store import key_of
from stepcredit.training.batching import sampler_of
from stepcredit.training.items import Item, Items
from stepcredit.training.methods import Method
from stepcredit.training.offline_config import OfflineConfig

_EPOCHS = 3
"""Epochs whose order is looked at; the largest micro-batch hardly grows after."""


class Shape(NamedTuple):
    """The size of a micro-batch.

    Attributes:
        tokens: tokens that a body reads, with padding.
        actions: actions of rows with a loss.
        real: tokens of its episodes, each prompt once if it is shared.
        rows: responses.
    """

    tokens: int
    actions: int
    real: int
    rows: int


class Run(NamedTuple):
    """The micro-batches of a run.

    Attributes:
        items: its items.
        micro_batches: the numbers of the items of those of the first epochs, in order.
        shapes: their sizes.
        per_epoch: micro-batches of an epoch.
        steps_per_epoch: optimizer steps of an epoch.
        steps: optimizer steps of the run.
    """

    items: Items
    micro_batches: list[list[int]]
    shapes: list[Shape]
    per_epoch: int
    steps_per_epoch: int
    steps: int

    @property
    def largest(self) -> list[int]:
        """The number of the micro-batch with the most tokens, and of that with the most actions, if it is another."""
        return sorted({max(range(len(self.shapes)), key=lambda k: self.shapes[k][field]) for field in (0, 1)})

    @property
    def typical(self) -> int:
        """The number of the micro-batch whose tokens are nearest to the mean."""
        return min(range(len(self.shapes)), key=lambda k: abs(self.shapes[k].tokens - self.mean.tokens))

    @property
    def mean(self) -> Shape:
        """The mean size."""
        return Shape(*(round(sum(column) / len(self.shapes)) for column in zip(*self.shapes, strict=True)))

    def micro_batch(self, number: int) -> list[Item]:
        """Returns the items of a micro-batch."""
        return [self.items[k] for k in self.micro_batches[number]]


def run_of(items: Items, args: OfflineConfig, method: Method) -> Run:
    """Returns the micro-batches that the trainer would make of items."""
    size, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    sampler = sampler_of(items, args, size)
    per_epoch = -(-len(items) // size)
    steps_per_epoch = -(-per_epoch // accumulated)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    micro_batches: list[list[int]] = []
    for epoch in range(min(_EPOCHS, -(-steps // steps_per_epoch))):
        sampler.set_epoch(epoch)
        order = list(sampler)
        micro_batches += [order[start : start + size] for start in range(0, len(order), size)]
    micro_batches = micro_batches[: steps * accumulated]
    shapes = [shape_of(rows_of([items[k] for k in some], method)[0], args.share_prompts) for some in micro_batches]
    return Run(items, micro_batches, shapes, per_epoch, steps_per_epoch, steps)


def rows_of(items: Sequence[Item], method: Method) -> tuple[list[Trajectory], list[Trajectory]]:
    """Returns the rows of a micro-batch that have a loss, and those of which only statistics are needed."""
    columns = list(zip(*items, strict=True))
    at = len(columns) - method.batch_layout.statistics_rows
    return [t for column in columns[:at] for t in column], [t for column in columns[at:] for t in column]


def shape_of(rows: Sequence[Trajectory], shared: bool) -> Shape:
    """Returns the size of a micro-batch of rows, padded to the longest."""
    actions = sum(int(t.action_mask.sum()) for t in rows)
    if not shared:
        return Shape(len(rows) * max(map(len, rows)), actions, sum(map(len, rows)), len(rows))
    prefixes = {t.ids[: prefix_length(t)].tobytes(): prefix_length(t) for t in rows}
    after = [len(t) - prefix_length(t) for t in rows]
    tokens = len(prefixes) * max(prefixes.values()) + len(rows) * max(after)
    return Shape(tokens, actions, sum(prefixes.values()) + sum(after), len(rows))


def even(rows: Sequence[Trajectory]) -> list[Trajectory]:
    """Returns as many rows of the mean prompt and response: without padding, as packed rows are."""
    prompt = round(sum(prefix_length(t) for t in rows) / len(rows)) + 1
    response = max(1, round(sum(map(len, rows)) / len(rows)) - prompt)
    prefixes: dict[bytes, int] = {}
    numbers = [prefixes.setdefault(t.ids[: prefix_length(t)].tobytes(), len(prefixes)) for t in rows]
    return [made_up(number, k, prompt, response) for k, number in enumerate(numbers)]


def made_up_items(
    prompts: int, generations: int, prompt_tokens: int, response_tokens: int, args: OfflineConfig, method: Method
) -> Items:
    """Returns the items of a method from responses of equal length, so many to each prompt, every second one right.

    Raises:
        InputError: the method cannot make items of them.
    """
    samples = ((prompt, sample) for prompt in range(prompts) for sample in range(generations))
    rows = stored(made_up(*sample, prompt_tokens, response_tokens, method.needs_behavior) for sample in samples)
    return method.batch_layout.items(rows, args)


def made_up(
    prompt: int, sample: int, prompt_tokens: int, response_tokens: int, has_behavior: bool = False
) -> Trajectory:
    """Returns a response of a given length; its token ids only tell prompts and samples apart."""
    length = prompt_tokens + response_tokens
    ids = np.zeros(length, dtype=np.int32)
    ids[0], ids[-1] = prompt, sample
    is_action = np.arange(length) >= prompt_tokens
    return Trajectory(
        ids=ids,
        action_mask=is_action,
        step_id=np.where(is_action, 0, -1),
        reward=np.zeros(length, dtype=np.float32),
        behavior_log_prob=np.zeros(length, dtype=np.float32) if has_behavior else None,
        retokenised=False,
        prompt_id=str(prompt),
        outcome=float(sample % 2 == 0),
    )


def kept_positions(items: Iterable[Item]) -> tuple[int, int]:
    """Returns how many positions are computed and kept before training: all of distinct responses, with each distinct
    prefix once; and those of their actions' states."""
    prefixes: dict[str, int] = {}
    rest: dict[str, int] = {}
    for trajectory in (t for item in items for t in item):
        start = prefix_length(trajectory)
        prefixes[key_of(trajectory.ids[:start])] = start
        rest[key_of(trajectory.ids)] = len(trajectory) - start
    return sum(prefixes.values()) + sum(rest.values()), sum(rest.values()) - len(rest)
