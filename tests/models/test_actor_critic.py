"""The models of a training run as one module."""

import torch

from doubles.models import tiny_llama
from stepcredit.models.actor_critic import ActorCritic


def test_a_reference_on_another_device_than_the_cpu_keeps_its_head_there():
    policy, reference = (tiny_llama().to("meta") for _ in range(2))
    models = ActorCritic(policy, reference=reference)
    models.release_reference()
    (weight,) = models.reference_head.weights
    assert weight.device == torch.device("meta")
    assert models.reference is None
