"""The baselines of a step compute the library's OREO: equal losses and gradients, on any padding."""

import copy

import pytest
import torch

from benchmarks import published, trl_blocks
from benchmarks.baseline_steps import ALPHA, BETA, BaselineStep, Models, padded
from benchmarks.workloads import Workload, random_episodes
from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import OfflineTrainer, OREOConfig
from stepcredit.models.loading import value_model_from

SCHEMES = {"published": (published.backward, "left", 1e-10), "trl": (trl_blocks.backward, "right", 1e-4)}
"""Backward pass, side of the padding, and the relative error of gradients: TRL's kernels compute in float32."""
EPISODES = random_episodes(2, (3, 9), (2, 12), 255)


def models():
    """Three models in double precision whose weights differ, so that no term of the loss is zero."""
    policy, reference = tiny_llama(seed=1).double(), tiny_llama(seed=2).double()
    value = value_model_from(tiny_llama(seed=3).double())
    torch.nn.init.normal_(value.score.weight)
    return Models(policy.train(), value.train(), reference.eval().requires_grad_(False))


def trajectories():
    return Workload("tiny", tiny_llama().config, None, byte_tokenizer(), EPISODES).trajectories()


def trainer(of, folder, **given):
    """The library's trainer on the same models and episodes."""
    config = OREOConfig(output_dir=str(folder), per_device_train_batch_size=16, save_strategy="no", report_to="none",
                        use_cpu=True, disable_tqdm=True, **given)  # fmt: skip
    return OfflineTrainer(
        of.policy, of.value, of.reference, config, train_dataset=EPISODES, processing_class=byte_tokenizer(),
    )  # fmt: skip


def gradients(of):
    return {
        f"{role}.{name}": parameter.grad.clone()
        for role, model in zip(("policy", "value"), of[:2])
        for name, parameter in model.named_parameters()
    }


def relative(found, expected):
    """The largest error of a gradient, relative to the largest entry of that gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - x).abs().max() / x.abs().max()) for name, x in expected.items())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """(loss, gradients) of one micro-batch of the library's trainer."""
    of = models()
    run = trainer(of, tmp_path_factory.mktemp("out"))
    assert (run.args.beta, run.args.kl_coef) == (BETA, ALPHA)
    batch = run.data_collator([run.train_dataset[k] for k in range(16)])
    run.model.train()
    loss = run.compute_loss(run.model, batch, num_items_in_batch=torch.tensor(16))
    loss.backward()
    return float(loss.detach()), gradients(of)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("micro_batch", [16, 5])
def test_losses_and_gradients_are_the_librarys(scheme, micro_batch, expected):
    backward, side, tolerance = SCHEMES[scheme]
    of, data = models(), trajectories()
    losses = [
        backward(of, padded(data[start : start + micro_batch], side), 1 / 16) for start in range(0, 16, micro_batch)
    ]
    assert sum(map(sum, losses)) == pytest.approx(expected[0], rel=tolerance)
    assert relative(gradients(of), expected[1]) < tolerance


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_moves_the_weights_as_the_librarys_does(scheme, tmp_path):
    backward, side, tolerance = SCHEMES[scheme]
    of = models()
    theirs = copy.deepcopy(of)
    BaselineStep(of, backward, side)(trajectories(), 16)
    trainer(theirs, tmp_path, max_steps=1, lr_scheduler_type="constant", warmup_steps=0).train()
    before = models()
    for mine, other, start in zip(of[:2], theirs[:2], before[:2]):
        moved = [
            ((a - b).norm() / (b - c).norm()).item()
            for a, b, c in zip(mine.parameters(), other.parameters(), start.parameters())
        ]
        assert max(moved) < max(tolerance, 1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_keep_the_episodes_whatever_the_padding(side):
    data = trajectories()
    rows = padded(data, side)
    for k, trajectory in enumerate(data):
        kept = rows.attention_mask[k].bool()
        assert rows.input_ids[k][kept].tolist() == trajectory.ids.tolist()
        assert rows.position_ids[k][kept].tolist() == list(range(len(trajectory)))
        assert rows.action[k][rows.action_mask[k]].tolist() == trajectory.ids[trajectory.action_mask].tolist()
        assert rows.reward[k].sum() == trajectory.reward.sum()
