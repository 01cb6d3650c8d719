"""The states at which V was trained, saved with the value model and used by search."""

import pytest

from doubles.models import tiny_llama
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.evaluation.response_search import step_rule
from stepcredit.models.loading import load_value_model, value_model_from
from stepcredit.models.states import ValueStates, value_states
from stepcredit.tasks.math import MATH


def test_they_are_saved_with_the_value_model(tmp_path):
    model = value_model_from(tiny_llama())
    assert value_states(model) is None
    states = ValueStates("step", ("\n", ". "), 64)
    states.describe(model.config)
    model.save_pretrained(tmp_path)
    assert value_states(load_value_model(str(tmp_path))) == states
    assert states.rule == StepRule(("\n", ". "), 64)
    model.config.stepcredit = {"level": "step"}
    with pytest.raises(InputError, match=r"^value_model: "):
        value_states(model)


def test_a_search_ends_steps_where_v_was_trained():
    class Task:
        step_delimiters = MATH.step_delimiters

    trained = ValueStates("step", ("\n",), 100)
    assert step_rule(Task, trained) == StepRule(("\n",), 100)
    assert step_rule(Task, trained, 100) == StepRule(("\n",), 100)
    with pytest.raises(InputError, match=r"max_step_tokens: .*steps of at most 100 tokens"):
        step_rule(Task, trained, 64)
    for anywhere in (None, ValueStates("token", ("\n",), 100)):
        assert step_rule(Task, anywhere) == StepRule(MATH.step_delimiters, 256)
        assert step_rule(Task, anywhere, 64) == StepRule(MATH.step_delimiters, 64)
