"""Collection: the baseline draws what the engine draws, and the rows say how fast each was."""

from dataclasses import replace

import pytest

from benchmarks import collect
from benchmarks.collect import EarlierEngine, equal, measured, requests
from benchmarks.workloads import Workload, any_tokenizer, random_episodes
from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.engines.engine import SamplingParams, load_engine


@pytest.fixture
def workload():
    return Workload("tiny", tiny_llama().config, None, byte_tokenizer(), random_episodes(3, (3, 9), (2, 5), 255))


def engines(batch_size):
    model, tokenizer = tiny_llama(seed=4).double(), byte_tokenizer()  # so that batches change no draw
    ours = load_engine(model, tokenizer=tokenizer, batch_size=batch_size)
    return {collect.BASELINE: EarlierEngine(model, tokenizer, batch_size), "ours": ours}


@pytest.mark.parametrize("batch_size", [5, 24])
def test_the_baseline_draws_the_engines_tokens(workload, batch_size):
    wanted, params = requests(workload), SamplingParams(12, seed=3, stop=("e",))
    drawn = {name: list(engine.generate(wanted, params)) for name, engine in engines(batch_size).items()}
    assert len(wanted) == 24
    assert equal(*drawn.values()) == 24
    assert len({len(generation.ids) for generation in drawn["ours"]}) > 1
    assert [g.stop_reason for g in drawn["ours"]] == [g.stop_reason for g in drawn[collect.BASELINE]]


def test_a_row_has_tokens_a_second_and_the_share_of_equal_draws(workload, monkeypatch):
    monkeypatch.setattr(collect, "MAX_NEW_TOKENS", 6)
    workload = replace(workload, tokenizer=any_tokenizer())  # random tokens: no text to stop at
    (row,) = measured(collect.engines(workload, "cpu", 24), requests(workload), workload, "cpu", repeats=1)
    assert row["equal_draws"] == 1
    assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
    assert row["time_ratio"] == pytest.approx(row["baseline_seconds"] / row["seconds"])
