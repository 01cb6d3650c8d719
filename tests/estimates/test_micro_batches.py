"""Micro-batches of an estimate: the trainer's own, and made-up ones."""

import pytest
import torch
from test_batching import row
from test_splits import ragged
from test_trainer import config

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import DPOConfig, KTOConfig, OfflineTrainer, OREOConfig, RFTConfig
from stepcredit.estimates.micro_batches import (
    Shape,
    even,
    kept_positions,
    made_up,
    made_up_items,
    rows_of,
    run_of,
    shape_of,
)
from stepcredit.training.methods import METHODS, method_of


def test_shapes_by_hand():
    rows = [row([1, 2, 3], [4, 5], 1.0), row([1, 2, 3], [6, 7, 8, 9], 0.0), row([5, 6], [7], 1.0)]
    assert shape_of(rows, shared=False) == Shape(tokens=3 * 7, actions=7, real=5 + 7 + 3, rows=3)
    # prefixes [1, 2] and [5]; rows of 3, 5 and 2 tokens
    assert shape_of(rows, shared=True) == Shape(tokens=2 * 2 + 3 * 5, actions=7, real=3 + 3 + 5 + 2, rows=3)
    # positions: those prefixes and rows once; states of actions: 2 + 4 + 1
    assert kept_positions([(rows[0], rows[1]), (rows[2],), (rows[0],)]) == (13, 7)


def test_made_up_responses_share_prompts_and_differ():
    rows = [made_up(p, k, 5, 3) for p in range(2) for k in range(4)]
    assert shape_of(rows, shared=True) == Shape(2 * 4 + 8 * 4, 24, 40, 8)
    assert kept_positions([(r,) for r in rows]) == (2 * 4 + 8 * 4, 24)


def test_rows_without_padding_have_as_many_tokens():
    rows = [row([1, 2, 3], [4] * n, 1.0) for n in (2, 4, 6)]
    assert shape_of(even(rows), shared=False) == shape_of([row([1, 2, 3], [4] * 4, 1.0)] * 3, shared=False)
    assert shape_of(even(rows), shared=True).real == shape_of(rows, shared=True).real


@pytest.mark.parametrize("kind", [OREOConfig, DPOConfig, KTOConfig, RFTConfig])
@pytest.mark.parametrize(
    "given",
    [
        {"per_device_train_batch_size": 3},
        {"per_device_train_batch_size": 3, "share_prompts": True},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": -1, "num_train_epochs": 2},
    ],
)
def test_micro_batches_are_the_trainers(tmp_path, kind, given):
    args = config(tmp_path, kind, **{"max_steps": 7, **given})
    run = OfflineTrainer(model=tiny_llama(), args=args, train_dataset=ragged(), processing_class=byte_tokenizer())
    found = run_of(run.train_dataset.items, args, run.method)
    seen = []
    run._run = lambda model, rows, objective=None: None

    def compute_loss(model, inputs, *args, **more):
        prefix = inputs.get("prefix")
        seen.append(inputs["input_ids"].numel() + (0 if prefix is None else prefix["input_ids"].numel()))
        return sum(p.sum() for p in model.parameters()) * 0

    run.compute_loss, run._compute_step_statistics = compute_loss, lambda batches: torch.zeros(1)
    run.train()
    assert run.state.global_step == found.steps
    batches = [found.micro_batch(k) for k in range(len(found.micro_batches))]
    both = [shape_of([t for rows in rows_of(items, run.method) for t in rows], args.share_prompts).tokens
            for items in batches]  # fmt: skip
    assert both == seen[: len(both)]
    assert len(both) == min(len(seen), 3 * found.per_epoch)


@pytest.mark.parametrize("name", METHODS)
def test_items_of_every_method(name, tmp_path):
    args = METHODS[name].config(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=4)
    items = made_up_items(3, 4, 5, 6, args, method_of(args))
    assert {len(item) for item in items} == {METHODS[name].batch_layout.rows_per_item}
    assert {len(t) for item in items for t in item} == {11}
    run = run_of(items, args, method_of(args))
    assert run.mean == run.shapes[run.typical]
    assert len(run.largest) == 1
