"""A step of every scheme on a tiny model, and the rows that come of it."""

import itertools

import pytest
import torch

from benchmarks import step
from benchmarks.flops import body_parameters, step_flops
from benchmarks.measure import Failed
from benchmarks.step_schemes import BASELINES, OURS, SCHEMES
from benchmarks.workloads import WORKLOADS, Workload, any_tokenizer, random_episodes, tokens_of
from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer


@pytest.fixture
def workload():
    return Workload(
        "tiny", tiny_llama(layers=7).config, None, byte_tokenizer(), random_episodes(2, (3, 9), (2, 12), 255)
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_makes_a_step(scheme, workload):
    found = step.measured(scheme, "cpu", workload, micro_batch=8)
    assert found["seconds"] > 0
    assert found["memory"] > found["state"] > 0
    assert (found["once_seconds"] is None) == (scheme in BASELINES)


@pytest.mark.parametrize("scheme", ["published", "plain"])
def test_random_tokens_need_no_tokenizer_of_the_model(scheme):
    episodes = random_episodes(2, (3, 9), (2, 12), 259)
    assert step.measured(scheme, "cpu", Workload("", tiny_llama().config, None, any_tokenizer(), episodes), 8)[
        "seconds"
    ]


def test_state_is_weights_gradients_and_two_moments(workload):
    found = step.measured("published", "cpu", workload, micro_batch=16)
    policy = sum(p.numel() for p in tiny_llama(layers=7).parameters())
    value = policy + tiny_llama().config.hidden_size
    steps_of_adam = (
        4 * 2 * len(list(tiny_llama(layers=7).parameters())) + 4
    )  # one number a weight, and one for the head of V
    assert found["state"] == 4 * (4 * policy + 4 * value + policy) + steps_of_adam


def test_repeats_are_processes_in_turn_and_rows_compare_medians(workload, monkeypatch):
    seconds = {"published": iter([8.0, 9.0, 7.0]), "trl": iter([6.0, 6.0, 6.0]), "same": iter([4.0, 5.0, 2.0])}
    called = []

    def run(module, *arguments):
        name = arguments[arguments.index("--scheme") + 1]
        called.append(name)
        once = None if name in BASELINES else 2.0
        return {"seconds": next(seconds[name]), "once_seconds": once, "memory": 10, "state": 4, "above_state": 5}

    monkeypatch.setattr(step, "in_own_process", run)
    monkeypatch.setitem(WORKLOADS, "smollm2", lambda prompts: workload)
    rows = step.rows("cpu", 3, 2, "smollm2", ["published", "trl", "same"])
    assert called == ["published", "trl", "same"] * 3
    ratios = {(row["scheme"], row["baseline"]): row["time_ratio"] for row in rows}
    assert ratios == {("trl", "published"): 8 / 6, ("published", "trl"): 6 / 8, ("same", "published"): 2.0,
                      ("same", "trl"): 1.5}  # fmt: skip
    same = next(row for row in rows if row["scheme"] == "same" and row["baseline"] == "published")
    assert same["break_even_epochs"] == 2.0 / (8.0 - 4.0)
    assert {"part", "baseline", "device", "scheme", "vocab", "hidden", "tokens", "memory_ratio"} <= same.keys()


def test_a_scheme_that_cannot_run_has_a_row_with_the_reason(workload, monkeypatch):
    def run(module, *arguments):
        raise Failed("does not fit into memory")

    monkeypatch.setattr(step, "in_own_process", run)
    monkeypatch.setitem(WORKLOADS, "smollm2", lambda prompts: workload)
    rows = step.rows("cpu", 2, 2, "smollm2", ["published", "plain"])
    assert [row["skipped"] for row in rows] == ["does not fit into memory"]
    assert rows[0]["time_ratio"] is None


def test_operations_are_those_of_the_layers_and_the_head(workload):
    model = tiny_llama(layers=7)
    layers = sum(p.numel() for n, p in model.model.layers.named_parameters() if p.ndim == 2)
    assert body_parameters(model.config) == layers
    tokens = tokens_of(workload.trajectories())
    head = model.lm_head.weight.numel()
    assert step_flops(model.config, SCHEMES["published"], tokens) == (
        2 * 8 * layers * tokens["tokens"] + 2 * 5 * head * tokens["response_tokens"]
    )


def test_tokens_count_a_prompt_once_where_it_is_shared(workload):
    tokens = tokens_of(workload.trajectories())
    prompts = {e.prompt_id: int((~e.tokens.action_mask).sum()) for e in workload.episodes}
    assert tokens["tokens"] == tokens["response_tokens"] + 8 * sum(prompts.values())
    assert tokens["tokens_shared"] == tokens["response_tokens"] + sum(prompts.values())


def test_random_episodes_are_the_same_in_every_process():
    pair = [random_episodes(2, (3, 9), (2, 12), 255) for _ in range(2)]
    for a, b in zip(*pair):
        assert torch.equal(torch.from_numpy(a.tokens.ids), torch.from_numpy(b.tokens.ids))
    assert [key for key, _ in itertools.groupby(pair[0], lambda e: e.prompt_id)] == ["0", "1"]


def test_names_of_schemes_differ():
    assert not BASELINES.keys() & OURS.keys()
