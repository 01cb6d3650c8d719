"""Losses, gradients and metrics do not depend on how an optimizer step is split."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_methods import moved
from test_trainer import config
from transformers import TrainerCallback

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import (
    DPOConfig,
    DQOConfig,
    DROConfig,
    Episode,
    IQLConfig,
    KTOConfig,
    OAPLConfig,
    OfflineTrainer,
    OREOConfig,
    RFTConfig,
    SFTConfig,
    TOPRConfig,
)
from stepcredit.episodes.episode import Tokens

VARIANTS = {
    "sft": (SFTConfig, {}),
    "rft": (RFTConfig, {}),
    "dpo": (DPOConfig, {"beta": 0.3, "max_pairs_per_prompt": 2}),
    "kto": (KTOConfig, {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}),
    "topr": (TOPRConfig, {}),
    "dro": (DROConfig, {"beta": 0.2}),
    "oapl": (OAPLConfig, {"beta": 0.2, "value_beta": 0.5}),
    "iql": (IQLConfig, {}),
    "iql, λ-returns of steps": (IQLConfig, {"lam": 0.7, "level": "step", "max_weight": 1.5}),
    "dqo": (DQOConfig, {"beta": 0.2}),
    "dqo, λ-returns of steps": (DQOConfig, {"beta": 0.2, "lam": 0.7, "level": "step"}),
    "dqo, no weights": (DQOConfig, {"beta": 0.2, "importance_weight": False}),
    "oreo": (OREOConfig, {"beta": 0.2}),
    "oreo, three updates of V": (OREOConfig, {"beta": 0.2, "value_updates_per_step": 3, "optim": "sgd"}),
    "oreo, categorical V": (
        OREOConfig,
        {"beta": 0.2, "value_loss": "categorical", "value_bins": 5, "value_range": [-0.5, 1.5], "normalizer": 3.0},
    ),
    "iql, categorical V of steps": (
        IQLConfig,
        {"level": "step", "value_loss": "categorical", "value_bins": 5, "reward_range": [-1.0, 1.0]},
    ),
    "oreo, steps": (OREOConfig, {"beta": 0.2, "level": "step", "kl_coef": 0.1}),
    "oreo, responses": (OREOConfig, {"beta": 0.2, "level": "response", "kl_coef": 0.3}),
    "oreo, sampled KL": (OREOConfig, {"beta": 0.2, "kl_estimator": "sampled", "kl_coef": 0.3}),
    "oreo, constant normalizer": (OREOConfig, {"beta": 0.2, "normalizer": 3.0, "value_coef": 0.5}),
}
METHODS_AND_VARIANTS = [pytest.param(name, marks=[pytest.mark.long] if "," in name else []) for name in VARIANTS]
"""All of them; those of a method with other settings are among the long tests."""


def sampled(prompt, completion, number):
    """An episode with ids and log-probabilities of the policy that wrote it, and small rewards of its steps."""
    ids = [*prompt.encode(), *completion.encode(), 257]
    mask = np.array([False] * len(prompt) + [True] * (len(completion) + 1))
    behavior = np.where(mask, -4.0 - 0.3 * np.sin(np.arange(len(ids)) + number), 0.0).astype(np.float32)
    steps = completion.count("\n") + (not completion.endswith("\n"))
    return Episode(
        prompt=prompt,
        completion=completion,
        reward=float(number % 2 == 0),
        step_rewards=tuple(-0.05 * k for k in range(max(steps, 1))),
        prompt_id=prompt,
        sample=number,
        tokens=Tokens(np.array(ids, dtype=np.int32), mask, behavior),
    )


def ragged():
    """Four prompts with four responses each, two of them right."""
    texts = ["4", "no\nidea", "4\nbecause 2+2=4\nso", "5\n"]
    return [sampled(f"{p}+{'1' * p}=", texts[k] + "!" * p, k) for p in range(1, 5) for k in range(4)]


class Gradients(TrainerCallback):
    """Those of every optimizer step, before it is made."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        named = (getattr(model, "module", model)).named_parameters()
        self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def trained(folder, name, size, accumulation, steps=2, **given):
    """(the logs, the gradients) of a run over the episodes in a fixed order, from a policy unlike its reference."""
    kind, own = VARIANTS[name]
    run = moved(
        OfflineTrainer(
            model=tiny_llama().double(),
            args=config(
                folder,
                kind,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulation,
                per_device_eval_batch_size=size,
                max_steps=steps,
                warmup_steps=0,
                learning_rate=1e-2,
                max_grad_norm=0.0,
                **{**own, **given},
            ),
            train_dataset=ragged(),
            eval_dataset=ragged()[:13],
            processing_class=byte_tokenizer(),
        )
    )
    if run.model.value is not None:
        run.model.value.double()
    gradients = Gradients()
    run.add_callback(gradients)
    run.train()
    run.evaluate()
    timed = ("runtime", "per_second", "flos")
    logs = [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in run.state.log_history]
    return logs, gradients.steps


def assert_equal(found, expected):
    assert len(found[0]) == len(expected[0])
    for ours, theirs in zip(found[0], expected[0]):
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    assert len(found[1]) == len(expected[1]) > 0
    for ours, theirs in zip(found[1], expected[1]):
        assert ours.keys() == theirs.keys()
        assert max(x.abs().max() for x in theirs.values()) > 1e-4
        for parameter, gradient in theirs.items():
            torch.testing.assert_close(ours[parameter], gradient, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", METHODS_AND_VARIANTS)
def test_any_split_of_a_step_gives_equal_losses_gradients_and_metrics(tmp_path, name):
    expected = trained(tmp_path, name, 8, 1)
    logs = expected[0][0]
    assert {"loss", "reward", "reward_std", "entropy", "logps", "num_tokens", "grad_norm/policy"} <= logs.keys()
    for size, accumulation in ((4, 2), (1, 8)):
        assert_equal(trained(tmp_path, name, size, accumulation), expected)


def test_the_numbers_that_a_split_could_change_are_not_trivial(tmp_path):
    """A baseline above zero, weights that differ and a value function whose variance is not that of its targets."""
    kto, dqo = trained(tmp_path, "kto", 4, 2)[0][1], trained(tmp_path, "dqo", 4, 2)[0][0]
    assert kto["kl"] > 0.01
    assert 0.15 < dqo["weights/effective_share"] < 0.95
    assert dqo["values/explained_variance"] < 0.9


if __name__ == "__main__":  # one of two processes
    torch.set_num_threads(1)
    ran = {name: trained(sys.argv[1], name, 2, 2, ddp_backend="gloo") for name in VARIANTS}
    if os.environ["RANK"] == "0":
        torch.save(ran, sys.argv[2])


@pytest.mark.long
def test_two_processes_give_equal_losses_gradients_and_metrics(tmp_path):
    """Evaluations apart: where the episodes do not divide evenly, the last ones are counted twice."""
    out, here = tmp_path / "found.pt", Path(__file__)
    port = str(29500 + os.getpid() % 1000)
    paths = os.pathsep.join([str(here.parents[1]), str(here.parent), *sys.path])
    common = {**os.environ, "PYTHONPATH": paths, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, str(here), str(tmp_path), str(out)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    for name, (logs, gradients) in torch.load(out, weights_only=False).items():
        expected = trained(tmp_path, name, 8, 1)
        assert_equal((logs[:2], gradients), (expected[0][:2], expected[1]))
