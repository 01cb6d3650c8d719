"""Searches over a task: what is chosen, what it costs, what survives a fault; and from the command line."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from stepcredit.cli import main
from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.scripted import ScriptedEngine
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.episode import Episode, StopReason, Tokens
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.evaluation.evaluate import EvaluateConfig, evaluate
from stepcredit.evaluation.response_search import (
    ResponseSearch,
    affordable,
    chosen_from,
    one_by_one_if_needed,
    with_values,
)
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.models.loading import value_model_from
from stepcredit.searching.responses import SearchResult
from stepcredit.searching.scorers import FunctionScorer, ValueScorer
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.arithmetic import Arithmetic
from stepcredit.verdict import Verdict

TASK = Arithmetic()


def spec(name, width):
    return SearchSpec(name, width, SamplingParams(12))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Untrained policy and value model, as folders."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = TASK.tokenizer()
    policy = policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0)
    value = value_model_from(policy)
    value.score.weight.data.normal_(0, 1.0)
    for name, model in (("policy", policy), ("value", value)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def response(sample, tokens, extracted, value, right, reason=StopReason.STOP):
    mask = np.array([False, False] + [True] * tokens)
    read = {"value": value, "tokens_read": tokens - 1, "prompt_read": 2} if reason is StopReason.STOP else {}
    return Episode(
        prompt="p",
        completion="x" * tokens,
        reward=float(right) if reason is StopReason.STOP else None,
        verdict=(Verdict.RIGHT if right else Verdict.WRONG) if reason is StopReason.STOP else None,
        prompt_id="p",
        sample=sample,
        stop_reason=reason,
        tokens=Tokens(np.arange(2 + tokens, dtype=np.int32), mask),
        metadata={"answer": "4", "extracted": extracted, **read},
    )


POOL = [
    response(0, 5, None, None, False, StopReason.LENGTH),
    response(1, 4, "5", 0.7, False),
    response(2, 3, "4", 0.4, True),
    response(3, 6, "4.0", 0.5, True),
]


@pytest.mark.parametrize(
    ("search", "chosen", "generated", "scored"),
    [
        (spec("vote", 1), 0, 5, 0),
        (spec("vote", 2), 1, 9, 0),
        (spec("vote", 4), 2, 18, 0),
        (spec("best-of", 4), 1, 18, 2 + 3 + 2 + 5),
        (spec("best-of", 2), 1, 9, 2 + 3),
        (spec("weighted-vote", 4), 3, 18, 2 + 3 + 2 + 5),
        (spec("weighted-vote", 3), 1, 12, 2 + 3 + 2),
    ],
)
def test_what_is_chosen_and_what_it_cost(search, chosen, generated, scored):
    (found,) = chosen_from([POOL], search)
    assert found.sample == chosen
    assert (found.metadata["tokens_generated"], found.metadata["tokens_scored"]) == (generated, scored)


def test_a_value_that_is_none_is_undecided_and_the_other_problem_unharmed():
    broken = [response(0, 4, "4", 0.5, True), response(1, 4, "4", None, True)]
    found = chosen_from([broken, POOL], spec("best-of", 4))
    assert (found[0].verdict, found[0].reward, found[0].metadata["error"]) == (
        Verdict.UNDECIDED, None, "the scorer returned NaN",
    )  # fmt: skip
    assert found[1].sample == 1
    assert chosen_from([broken], spec("vote", 2))[0].verdict is Verdict.RIGHT


def test_a_budget_counts_responses_as_if_drawn_one_by_one():
    assert [e.sample for e in affordable(POOL, 9, scored=False)] == [0, 1]
    assert [e.sample for e in affordable(POOL, 8, scored=False)] == [0]
    assert [e.sample for e in affordable(POOL, 1, scored=False)] == [0]
    assert [e.sample for e in affordable(POOL, 14, scored=True)] == [0, 1]
    assert [e.sample for e in affordable(POOL, 13, scored=True)] == [0]


def test_values_are_those_of_the_state_before_the_end_token():
    scorer = FunctionScorer(lambda rows: [float(len(row)) for row in rows])
    scored = with_values([replace_tokens(e) for e in POOL], scorer)
    assert [e.metadata.get("value") for e in scored] == [None, 6.0, 5.0, 8.0]


def replace_tokens(episode):
    return Episode(**{**vars(episode), "metadata": {}})


def test_a_search_that_dies_takes_one_problem_with_it():
    calls = []

    def search(problems):
        calls.append(list(problems))
        if "bad" in problems:
            raise RuntimeError("out of memory\nmore")
        return [SearchResult(tokens_generated=len(p)) for p in problems]

    found = one_by_one_if_needed(["a", "bad", "ccc"], search)
    assert [f.error for f in found] == [None, "RuntimeError: out of memory", None]
    assert [f.tokens_generated for f in found] == [1, 0, 3]
    assert calls == [["a", "bad", "ccc"], ["a"], ["bad"], ["ccc"]]
    with pytest.raises(ZeroDivisionError):
        one_by_one_if_needed(["a"], lambda problems: [1 / 0])


class DiesAt:
    """A value scorer that dies on one prompt."""

    def __init__(self, scorer, prompt):
        self.scorer, self.prompt = scorer, prompt

    def start(self, prompts):
        if self.prompt in map(tuple, prompts):
            raise ConnectionError("the scorer is gone")
        return self.scorer.start(prompts)


def test_a_scorer_that_dies_on_one_problem_leaves_the_others_as_they_are(folders, tmp_path):
    from stepcredit.models.loading import load_policy, load_tokenizer, load_value_model

    tokenizer = load_tokenizer(str(folders / "policy"))
    problems = list(TASK.problems("test", 4))
    engine = TransformersEngine(load_policy(str(folders / "policy")), tokenizer, 64)
    scorer = ValueScorer(load_value_model(str(folders / "value")))

    def answers(scorer, name):
        rule = StepRule(("\n",), 6)
        search = ResponseSearch(TASK, problems, lambda: engine, scorer, rule, tmp_path / name / "r", {})
        return search.episodes(spec("beam", 2))

    whole = answers(scorer, "whole")
    broken = answers(DiesAt(scorer, tuple(tokenizer(problems[1].prompt)["input_ids"])), "broken")
    assert broken[1].verdict is Verdict.UNDECIDED
    assert broken[1].metadata["error"] == "ConnectionError: the scorer is gone"
    for k in (0, 2, 3):
        assert (broken[k].completion, broken[k].metadata) == (whole[k].completion, whole[k].metadata)


def run(folders, out, *more):
    flags = ["--task", "arithmetic", "--model", str(folders / "policy"), "--limit", "6", "--max_new_tokens", "12"]
    return main(["evaluate", *flags, "--output_dir", str(out), "--method", "m", *more])


def test_all_searches_in_one_run_and_again(folders, tmp_path, capsys):
    value = ["--value_model", str(folders / "value"), "--search", "all", "--width", "4"]
    assert run(folders, tmp_path / "a", *value) == 0
    rows = json.loads((tmp_path / "a" / "results.json").read_text())
    found = {(row["search"], row["width"]) for row in rows}
    searches = ("vote", "weighted-vote", "best-of", "beam")
    assert found == {("greedy", 1), ("sample", 4), *((s, k) for s in searches for k in (1, 2, 4))}
    by_name = {(row["search"], row["width"]): row for row in rows}
    assert by_name["vote", 4]["tokens_generated"] == by_name["sample", 4]["tokens_generated"]
    assert by_name["vote", 4]["tokens_scored"] == 0 < by_name["best-of", 4]["tokens_scored"]
    assert "majority vote" in (tmp_path / "a" / "cost.svg").read_text()
    assert by_name["best-of", 1]["accuracy"] == by_name["vote", 1]["accuracy"]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("episodes-*.parquet")}
    assert run(folders, tmp_path / "a", *value, "--batch_size", "7") == 0
    assert json.loads((tmp_path / "a" / "results.json").read_text()) == rows
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("episodes-*.parquet")} == before
    capsys.readouterr()
    assert run(folders, tmp_path / "a", *value, "--seed", "0", "--max_new_tokens", "5") == 2
    assert "was collected with another max_new_tokens" in capsys.readouterr().err


def test_evaluations_at_two_temperatures_stand_side_by_side(folders, tmp_path):
    for temperature in ("1", "0.5"):
        flags = ["--search", "sample", "--num_generations", "2", "--temperature", temperature]
        assert run(folders, tmp_path, *flags) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row.get("temperature") for row in rows] == [None, 0.5]
    assert len(list((tmp_path / "responses").glob("*/collect.json"))) == 2


def test_one_search_finds_what_it_finds_among_all(folders, tmp_path):
    value = ["--value_model", str(folders / "value")]
    assert run(folders, tmp_path / "all", *value, "--search", "all", "--width", "2") == 0
    rows = {(r["search"], r["width"]): r for r in json.loads((tmp_path / "all" / "results.json").read_text())}
    trace = ["--trace", str(tmp_path / "tree.html")]
    assert run(folders, tmp_path / "beam", *value, "--search", "beam", "--width", "2", *trace) == 0
    (row,) = json.loads((tmp_path / "beam" / "results.json").read_text())
    assert row == rows["beam", 2]
    assert "<details" in (tmp_path / "tree.html").read_text()
    lines = (tmp_path / "beam" / "responses" / "m-test-beam-seed0-beam2.jsonl").read_text().splitlines()
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--search", "beam"], "search: beam needs --value_model or --reward_model"),
        (["--search", "beem"], "--search: invalid choice: 'beem' (choose from 'greedy', 'sample', 'vote'"),
        (["--search", "vote", "--width", "0"], "width: 0 must be 1 or more"),
        (["--search", "vote", "--trace", "x.html"], "trace: only beam search has a tree"),
    ],
)
def test_bad_settings_are_one_line(folders, tmp_path, capsys, flags, error):
    assert run(folders, tmp_path / "x", *flags) == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--value_model", "nowhere", "--search", "greedy"],
        ["--value_model", "nowhere", "--search", "vote"],
        ["--value_model", "nowhere", "--search", "beam"],
        ["--reward_model", "nowhere", "--search", "all"],
        ["--search", "all", "--continuations", "0"],
        ["--search", "greedy", "--budget", "0"],
        ["--model", "POLICY WITHOUT WEIGHTS", "--search", "greedy"],
        ["--task", "fetch", "--value_model", "nowhere", "--search", "random"],
    ],
)
def test_what_cannot_work_is_found_before_anything_is_written(folders, tmp_path, capsys, flags):
    bare = tmp_path / "bare"
    TASK.tokenizer().save_pretrained(bare)
    flags = [str(bare) if flag.startswith("POLICY") else flag for flag in flags]
    assert run(folders, tmp_path / "out", *flags) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_an_engine_that_draws_whole_responses_alone_has_no_beam(folders, tmp_path):
    tokenizer = TASK.tokenizer()
    engine = ScriptedEngine(lambda request: [tokenizer.eos_token_id], tokenizer)
    models = SimpleNamespace(tokenizer=tokenizer, engine=engine, scorer=FunctionScorer(lambda rows: [0.0] * len(rows)))
    config = {"task": "arithmetic", "model": "in memory", "value_model": "in memory", "limit": 3}
    with pytest.raises(InputError, match="engine: a beam needs one step or turn at a time"):
        evaluate(EvaluateConfig(**config, search="beam", output_dir=str(tmp_path / "out")), models)
    assert not (tmp_path / "out").exists()
    rows, _ = evaluate(EvaluateConfig(**config, search="best-of", output_dir=str(tmp_path / "out")), models)
    assert [(row.search, row.width, row.n) for row in rows] == [("best-of", 4, 3)]


def test_no_model_is_loaded_twice_and_no_policy_for_what_is_done(folders, tmp_path, monkeypatch):
    from stepcredit.rollouts import models, task_settings

    loaded = []

    def counting(load):
        return lambda *given, **more: loaded.append(load.__name__) or load(*given, **more)

    monkeypatch.setattr(models, "load_value_model", counting(models.load_value_model))
    monkeypatch.setattr(task_settings, "load_engine", counting(task_settings.load_engine))
    flags = ["--value_model", str(folders / "value"), "--search", "all", "--width", "2"]
    assert run(folders, tmp_path, *flags) == 0
    assert sorted(loaded) == ["load_engine", "load_value_model"]
    assert run(folders, tmp_path, *flags) == 0
    assert sorted(loaded) == ["load_engine", "load_value_model", "load_value_model"]
