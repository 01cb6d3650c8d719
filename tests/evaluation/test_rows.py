"""What a row tells of the evaluation that it comes from."""

from dataclasses import fields

import pytest

from stepcredit.engines.engine import SamplingParams
from stepcredit.evaluation.evaluate import EvaluateConfig
from stepcredit.evaluation.rows import ALWAYS, BEAM, CHOICES, named, result_row, setting_columns
from stepcredit.results.schema import PolicyRow
from stepcredit.rollouts.task_settings import HOW_ASKED
from stepcredit.searching.spec import SearchSpec

OTHER = {
    "max_new_tokens": 12, "max_turns": 3, "engine": "other", "dtype": "bfloat16", "chat_template": "original",
    "merge_system_message": True, "budget": 900, "reward_model": "r", "continuations": 2, "max_step_tokens": 8,
    "choose": "vote",
}  # fmt: skip


def config(**given):
    made = EvaluateConfig(task="arithmetic", model="m", output_dir="o")
    for name, value in given.items():  # none of them need exist
        setattr(made, name, value)
    return made


def test_settings_that_are_not_the_defaults_are_told_where_the_search_goes_by_them():
    assert setting_columns(config(), "beam") == {}
    assert setting_columns(config(**OTHER), "beam") == OTHER
    assert setting_columns(config(**OTHER), "vote") == {name: OTHER[name] for name in (*ALWAYS, *CHOICES)}
    assert setting_columns(config(**OTHER), "greedy") == {name: OTHER[name] for name in ALWAYS}
    assert set(OTHER) == {*ALWAYS, *CHOICES, *BEAM}


def test_every_setting_that_decides_what_is_drawn_is_a_column():
    """A new setting of evaluate has to be a column, or is named here because no result depends on it."""
    elsewhere = {
        "task",
        "data",
        "model",
        "output_dir",
        "value_model",
        "limit",
        "num_generations",
    }  # a column of another name
    no_result = {"workers", "batch_size", "trust_remote_code", "trace", "value_base_url", "server_model", *HOW_ASKED}
    columns = {item.name for item in fields(PolicyRow)}
    assert {item.name for item in fields(EvaluateConfig)} - elsewhere - no_result <= columns


@pytest.mark.parametrize("name", OTHER)
def test_rows_of_two_settings_stand_beside_each_other(name):
    def row(**given):
        about = {"task": "t", "method": "m", **setting_columns(config(**given), "beam")}
        return result_row([], [], SearchSpec("beam", 2, SamplingParams(9)), about)

    assert row(**{name: OTHER[name]}).key() != row().key()


def test_greedy_tells_no_sampling():
    warm = SamplingParams(9, temperature=0.5, top_p=0.9, top_k=3)
    assert named(SearchSpec("sample", 2, warm)) == {
        "search": "sample", "width": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 3,
    }  # fmt: skip
    assert named(SearchSpec("greedy", 1, SamplingParams(9, temperature=0.0, top_k=3))) == {
        "search": "greedy",
        "width": 1,
    }
