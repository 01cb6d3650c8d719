"""V of responses is read where training reads it, whatever the batch and the order."""

import numpy as np
import torch

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.episodes.alignment import align
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.models.loading import value_model_from
from stepcredit.models.scoring import value_after_steps, values_of


def value_model():
    model = value_model_from(tiny_llama(seed=4).double())
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    return model


def rows():
    texts = ["a\nbb\nc", "", "xyz", "a\n" * 5]
    return [
        align(Episode(prompt="q" * (i + 1), completion=t, reward=1.0, prompt_id="p"), byte_tokenizer(), StepRule())
        for i, t in enumerate(texts)
    ]


def test_each_value_is_the_output_one_position_before_its_action():
    model, trajectories = value_model(), rows()
    for size in (1, 3):
        for trajectory, found in zip(trajectories, values_of(model, trajectories, batch_size=size)):
            with torch.no_grad():
                output = model(torch.from_numpy(trajectory.ids).long()[None]).logits[0, :, 0].numpy()
            for p in range(len(trajectory)):
                if trajectory.action_mask[p]:
                    np.testing.assert_allclose(found[p], output[p - 1], rtol=1e-5)
                else:
                    assert np.isnan(found[p])


def test_values_after_steps_by_hand():
    """q | a \\n | b b \\n | c | E: before the first step, after each of three; the last before the end token."""
    trajectory = rows()[0]
    value = np.arange(len(trajectory), dtype=np.float32)
    assert value_after_steps(trajectory, value).tolist() == [1, 3, 6, 7]
    assert trajectory.ids[7] == 257
