"""V from a server that speaks vLLM's pooling interface: as from the value model here, and never a wrong number."""

import json
import threading

import numpy as np
import pytest
import torch

from doubles.models import tiny_llama
from doubles.servers import StandIn, send, serving
from doubles.tokenizers import byte_tokenizer
from stepcredit.cli import main
from stepcredit.engines.engine import Request, SamplingParams, Servers
from stepcredit.engines.server import connection
from stepcredit.engines.server.connection import ServerError
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.alignment import TokenTexts, align
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.models.loading import value_model_from
from stepcredit.models.states import ValueStates
from stepcredit.searching.beam import beam_search
from stepcredit.searching.scorers import Reading, Scorer, ValueScorer
from stepcredit.searching.spec import SearchSpec
from stepcredit.searching.value_server import ServerValueScorer

TOKENIZER = byte_tokenizer()
PROMPTS = [tuple(text.encode()) for text in ("2+3=", "hello", "A longer question")]


class PoolingStandIn(StandIn):
    """A server of a value model."""

    fault, read = None, 0

    def __init__(self, value_model, name="tiny-value"):
        super().__init__(value_model, TOKENIZER, "text", name)
        self._one = threading.Lock()

    def handle(self, handler, body):
        if handler.path != "/pooling":
            return super().handle(handler, body)
        assert body["task"] == "token_classify"
        assert body["use_activation"] is False
        self.read += 1
        with self._one, torch.inference_mode():
            values = self.model(torch.tensor(body["input"])).logits[0].tolist()
        answer = {"data": [{"index": 0, "object": "pooling", "data": values}], "usage": {}}
        return send(handler, answer if self.fault is None else self.fault(answer))


@pytest.fixture(scope="module")
def value_model():
    model = value_model_from(tiny_llama(seed=1))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.score.weight)
    ValueStates("step", ("e", "\n"), 8).describe(model.config)
    return model


@pytest.fixture(scope="module")
def folder(value_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "tiny-value"
    value_model.save_pretrained(path)
    return path


def scored(folder, url, **more):
    return ServerValueScorer(Servers((url,), retries=1, **more), str(folder))


def test_values_are_those_of_the_model_here(folder, value_model):
    with serving(PoolingStandIn(value_model)) as url:
        scorer, here = scored(folder, url), ValueScorer(value_model)
        assert isinstance(scorer, Scorer)
        assert scorer.states == here.states == ValueStates("step", ("e", "\n"), 8)
        ours, theirs = scorer.start(PROMPTS), here.start(PROMPTS)
        np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)
        assert ours[2] == theirs[2]
        readings = [Reading(0, (65, 66), False), Reading(2, (67, 257), True), Reading(1, (257,), True)]
        for _ in range(2):
            (value, read), (other, other_read) = (state[0].score(readings) for state in (ours, theirs))
            np.testing.assert_allclose(value, other, atol=1e-5)
            assert read == other_read
            for state in (ours, theirs):
                state[0].keep([0, 1, 2])
            counts = [state[0].extend([(1,), (2, 3), (4,)]) for state in (ours, theirs)]
            assert counts[0] == counts[1] == [1, 3, 2]  # with the end tokens, which were unread


def test_values_along_a_response_are_those_of_the_model_here(folder, value_model):
    texts = ("2+3=", "5\n"), ("hello", " and\nso on")
    episodes = [Episode(prompt=prompt, completion=text, reward=1.0, prompt_id=prompt) for prompt, text in texts]
    rows = [align(e, TOKENIZER, StepRule(("\n",)), TokenTexts(TOKENIZER)) for e in episodes]
    with serving(PoolingStandIn(value_model)) as url:
        for ours, theirs in zip(scored(folder, url).values_of(rows), ValueScorer(value_model).values_of(rows)):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
            assert np.isfinite(ours).sum() > 2


@pytest.mark.parametrize("search", ["greedy", "best-of", "beam"])
def test_generate_gives_the_same_values_through_a_server(folder, value_model, search, tmp_path):
    tiny_llama(seed=3).save_pretrained(tmp_path / "policy")
    TOKENIZER.save_pretrained(tmp_path / "policy")
    TOKENIZER.save_pretrained(folder)
    command = ["generate", "hello", "2+3=", "--model", str(tmp_path / "policy"), "--value_model", str(folder)]
    command += ["--search", search, "--width", "2", "--max_new_tokens", "24", "--output"]
    stand_in = PoolingStandIn(value_model)
    with serving(stand_in) as url:
        assert main([*command, str(tmp_path / "here.jsonl")]) == 0
        assert stand_in.read == 0
        assert main([*command, str(tmp_path / "server.jsonl"), "--value_base_url", url]) == 0
        assert stand_in.read >= 2
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("server.jsonl", "here.jsonl")
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["completion"] == other["completion"]
        assert one["value_initial"] == pytest.approx(other["value_initial"], abs=2e-4)
        for step, same in zip(one["steps"], other["steps"], strict=True):
            assert step == {"text": same["text"], "value": pytest.approx(same["value"], abs=2e-4)}


def test_a_beam_search_with_it_is_that_with_the_model_here(folder, value_model):
    engine = TransformersEngine(tiny_llama(seed=3), TOKENIZER)
    spec = SearchSpec("beam", 2, SamplingParams(24, seed=3))
    requests = [Request(prompt, str(k)) for k, prompt in enumerate(PROMPTS)]
    with serving(PoolingStandIn(value_model)) as url:
        ours, theirs = (
            beam_search(requests, engine.stepper(spec.params, StepRule(("e", "\n"), 8)), scorer, spec)
            for scorer in (scored(folder, url), ValueScorer(value_model))
        )
    for one, other in zip(ours, theirs):
        assert [r.ids for r in one.pool] == [r.ids for r in other.pool]
        assert one.tokens_scored == other.tokens_scored


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda a: {"data": []}, "0 rows of values, where 1 was asked for"),
        (lambda a: {"data": [{"data": [[0.5]]}]}, "1 values for 4 tokens"),
        (lambda a: {"data": [{"data": [[0.5, 0.5]] * 4}]}, r"\[0.5, 0.5\] is no value"),
        (lambda a: {"data": [{"data": [[float("nan")]] * 4}]}, r"\[nan\] is no value"),
        (lambda a: {"data": [{"data": ["x"] * 4}]}, "'x' is no value"),
        (lambda a: {"data": [{"data": "AAAA"}]}, "data.0.data is 'AAAA', not a list"),
        (lambda a: {"error": "no"}, "an answer without data"),
    ],
    ids=range(7),
)
def test_an_answer_that_is_no_value_is_none(folder, value_model, monkeypatch, fault, message):
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.01)
    stand_in = PoolingStandIn(value_model)
    stand_in.fault = fault
    with serving(stand_in) as url:
        scorer = scored(folder, url)
        with pytest.raises(ServerError, match=message):
            scorer.start(PROMPTS[:1])


def test_another_model_or_one_with_bins_is_refused(folder, value_model, tmp_path):
    with serving(PoolingStandIn(value_model, "other")) as url, pytest.raises(InputError, match="serves 'other', not"):
        scored(folder, url)
    with_bins = value_model_from(tiny_llama(), [0.0, 0.5, 1.0])
    with_bins.save_pretrained(tmp_path / "bins")
    with pytest.raises(InputError, match="value_base_url: a value model with bins gives several numbers per token"):
        scored(tmp_path / "bins", "http://127.0.0.1:9")
