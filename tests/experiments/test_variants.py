"""Process rewards say what the outcome says, at the step that decided it."""

import numpy as np
import pytest

from stepcredit.episodes.alignment import align
from stepcredit.episodes.episode import Episode, StopReason, Tokens
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.experiments.variants import VARIANTS, legend, variant_of, with_process_rewards
from stepcredit.tasks.arithmetic import Arithmetic
from stepcredit.training.methods import METHODS

TASK = Arithmetic()


def test_every_variant_is_a_method_with_settings_that_it_knows():
    for variant in VARIANTS.values():
        assert variant.method in METHODS
        assert set(variant.settings) <= set(METHODS[variant.method].config.__dataclass_fields__)
    with pytest.raises(InputError, match="unknown method 'ppo'; choose from rft"):
        variant_of("ppo")


def test_totals_are_the_outcome_less_one_and_fall_on_the_first_wrong_step():
    tokenizer, rule = TASK.tokenizer(), StepRule(("\n",))
    demonstrations = TASK.demonstrations(60, 0)
    for before, after in zip(demonstrations, with_process_rewards(TASK, demonstrations)):
        rewards = align(after, tokenizer, rule).reward
        assert rewards.sum() == before.reward - 1
        assert align(after, tokenizer, rule).outcome == before.reward
        if before.reward == 0:
            (place,) = rewards.nonzero()[0]
            lines = str(before.completion).split("\n")
            gold = str(before.metadata["answer"]).split()
            first = next(k for k, line in enumerate(lines[:-1]) if line.split()[-1] != gold[k])
            ids = align(after, tokenizer, rule).ids
            assert tokenizer.decode(ids[: place + 1]).count("\n") - 1 == first + 1
            assert tokenizer.decode(ids[place : place + 1]) == "\n"


def test_an_empty_response_bears_it_on_its_end_token():
    tokenizer = TASK.tokenizer()
    prompt = tokenizer("digits 1 2 3 | 4 5 6 | 7 8 9\n").input_ids
    ids = np.array([*prompt, tokenizer.eos_token_id], dtype=np.int32)
    tokens = Tokens(ids, np.arange(len(ids)) == len(prompt))
    prompt_text = tokenizer.decode(prompt)
    empty = Episode(
        prompt=prompt_text, completion="", reward=0.0, prompt_id="p", tokens=tokens, metadata={"answer": "x"}
    )
    (after,) = with_process_rewards(TASK, [empty])
    assert align(after, tokenizer, StepRule(("\n",))).reward.tolist() == [0.0] * len(prompt) + [-1.0]
    assert after.outcome == 0.0


def test_truncated_and_undecided_episodes_stay_as_they_are():
    cut = Episode(prompt="q", completion="a", reward=None, prompt_id="q", stop_reason=StopReason.LENGTH)
    assert with_process_rewards(TASK, [cut]) == [cut]


def test_a_task_that_knows_no_wrong_steps_is_refused():
    class Silent(Arithmetic):
        def wrong_steps(self, problem, response):
            return None

    with pytest.raises(InputError, match="does not label wrong steps"):
        with_process_rewards(Silent(), TASK.demonstrations(1, 0))


def test_labels_and_colours_of_methods_and_variants():
    assert legend(["sft", "oreo-step", "base", "mine"]) == {
        "sft": {"label": "SFT", "color": "#858c96"},
        "oreo-step": {"label": "OREO (step)", "color": "#3fa3d9"},
        "base": {"label": "base model", "color": "#a9a294"},
    }
    looks = legend(VARIANTS).values()
    assert len({look["label"] for look in looks}) == len({look["color"] for look in looks}) == len(VARIANTS)
    assert set(METHODS) == {*VARIANTS, "sft"} & set(METHODS)
