"""Sampling from servers: the same responses as from the model here, id for id, whatever the server speaks."""

import json
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

from doubles.models import tiny_llama
from doubles.servers import DIALECTS, StandIn, serving
from doubles.tokenizers import byte_tokenizer
from stepcredit.engines.engine import Engine, Request, SamplingParams, Servers, SteppingEngine, load_engine
from stepcredit.engines.server.answers import _are_same, _stops_at
from stepcredit.engines.server.connection import Connections
from stepcredit.engines.server.server_engine import Policy
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.episode import StopReason
from stepcredit.errors import InputError

WITH_IDS = [name for name in DIALECTS if name != "text"]
PROMPTS = ["2+3=", "hello", "A longer question, with a comma?", "x"]
REQUESTS = [Request(tuple(text.encode()), text, k) for text in PROMPTS for k in range(3)]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_llama(seed=3)


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "tiny"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def served(folder, model, tokenizer):
    """A function from dialect to (engine, stand-in)."""
    with ExitStack() as stack:

        def start(dialect, servers=None, **more):
            stand_in = StandIn(model, tokenizer, dialect, **{"name": "tiny", **more})
            url = stack.enter_context(serving(stand_in))
            engine = load_engine(str(folder), "openai", tokenizer=tokenizer, servers=servers or Servers((url,)))
            stack.callback(engine._connections.close)
            return engine, stand_in

        yield start


def same(ours, theirs):
    assert [g.ids.tolist() for g in ours] == [g.ids.tolist() for g in theirs]
    assert [g.stop_reason for g in ours] == [g.stop_reason for g in theirs]


@pytest.mark.parametrize("dialect", WITH_IDS)
def test_greedy_responses_are_those_of_the_model_here(served, model, tokenizer, dialect):
    engine, _ = served(dialect)
    assert isinstance(engine, Engine)
    assert isinstance(engine, SteppingEngine)
    here = TransformersEngine(model, tokenizer)
    assert engine.ends == here.ends
    assert engine.max_length <= here.max_length == 256
    params = SamplingParams(24, temperature=0.0)
    ours, theirs = list(engine.generate(REQUESTS, params)), list(here.generate(REQUESTS, params))
    same(ours, theirs)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one.log_prob, other.log_prob, atol=1e-4)


@pytest.mark.parametrize("dialect", WITH_IDS)
def test_sampled_ids_have_the_models_log_probabilities(served, model, dialect):
    """At temperature 1 without filters, where every dialect gives log μ: that of the model, token by token."""
    import torch

    engine, _ = served(dialect)
    found = list(engine.generate(REQUESTS, SamplingParams(20, seed=5)))
    assert len({tuple(g.ids) for g in found}) > 8
    for request, generation in zip(REQUESTS, found):
        ids = torch.tensor([[*request.prompt_ids, *generation.ids]])
        with torch.inference_mode():
            expected = model(ids).logits[0].log_softmax(-1)
        start = len(request.prompt_ids)
        own = [float(expected[start - 1 + k, i]) for k, i in enumerate(generation.ids)]
        np.testing.assert_allclose(generation.log_prob, own, atol=1e-4)
    again = list(engine.generate(REQUESTS[::-1], SamplingParams(20, seed=5)))[::-1]
    same(found, again)
    other = list(engine.generate(REQUESTS, SamplingParams(20, seed=6)))
    assert [g.ids.tolist() for g in other] != [g.ids.tolist() for g in found]


@pytest.mark.parametrize("dialect", WITH_IDS)
def test_filters_are_sent_and_log_probabilities_are_those_after_them_or_unknown(served, dialect):
    engine, _ = served(dialect)
    params = SamplingParams(6, temperature=0.5, top_k=2)
    found = list(engine.generate(REQUESTS, params))
    greedy = [g.ids[0] for g in engine.generate(REQUESTS, SamplingParams(1, temperature=0.0))]
    for request, generation, best in zip(REQUESTS, found, greedy):
        if dialect != "llama.cpp":
            assert np.isnan(generation.log_prob).all()
            continue
        assert (np.exp(generation.log_prob) <= 1.0001).all()
        likeliest = np.exp(generation.log_prob[0]) if generation.ids[0] == best else 1 - np.exp(generation.log_prob[0])
        assert likeliest >= 0.5 - 1e-6, request


@pytest.mark.parametrize("dialect", WITH_IDS)
def test_a_response_ends_with_the_ends_of_the_policy(served, model, tokenizer, dialect):
    """The server stops at ids of its own: at one that is none of the policy's, it is asked to go on."""
    here = TransformersEngine(model, tokenizer)
    params = SamplingParams(24, temperature=0.0)
    free = next(iter(here.generate(REQUESTS[:1], params))).ids.tolist()
    engine, stand_in = served(dialect, ends=(257, free[3]))
    same(list(engine.generate(REQUESTS[:1], params)), list(here.generate(REQUESTS[:1], params)))
    assert len(stand_in.asked) == (1 if dialect == "vllm" else 1 + free[:-1].count(free[3]))


@pytest.mark.parametrize("dialect", WITH_IDS)
def test_an_end_that_only_the_policy_knows_ends_a_response(model, tokenizer, served, dialect):
    engine, _ = served(dialect)
    params = SamplingParams(24, temperature=0.0)
    free = next(iter(engine.generate(REQUESTS[:1], params))).ids.tolist()
    engine.ends = engine.ends._replace(stop=frozenset({257, free[5]}))
    (found,) = engine.generate(REQUESTS[:1], params)
    at = free.index(free[5]) + 1
    assert found.ids.tolist() == free[:at]
    assert found.stop_reason is StopReason.STOP


@pytest.mark.parametrize("dialect", DIALECTS)
def test_stop_strings_stay_part_of_the_response(served, model, tokenizer, dialect):
    here = TransformersEngine(model, tokenizer)
    free = next(iter(here.generate(REQUESTS[:1], SamplingParams(24, temperature=0.0)))).ids.tolist()
    stop = next(chr(i) for i in free[2:] if i < 128)
    params = SamplingParams(24, temperature=0.0, stop=(stop, "never"))
    (theirs,) = here.generate(REQUESTS[:1], params)
    engine, _ = served(dialect)
    (ours,) = engine.generate(REQUESTS[:1], params)
    same([ours], [theirs])
    assert theirs.stop_reason is StopReason.STOP
    assert ours.ids[-1] == ord(stop)
    if dialect == "llama.cpp":  # it leaves out the log-probability of the stop string
        np.testing.assert_allclose(ours.log_prob[:-1], theirs.log_prob[:-1], atol=1e-4)
        assert np.isnan(ours.log_prob[-1])


def test_texts_are_tokenised_once_and_marked(served, model, tokenizer):
    engine, stand_in = served("text")
    assert not isinstance(engine, SteppingEngine)
    params = SamplingParams(40, temperature=0.0)
    ours = list(engine.generate(REQUESTS, params))
    theirs = list(TransformersEngine(model, tokenizer).generate(REQUESTS, params))
    same(ours, theirs)
    assert all(g.retokenised and np.isnan(g.log_prob).all() for g in ours)
    assert {body["prompt"] for _, body in stand_in.asked} == set(PROMPTS)
    with pytest.raises(InputError, match="top_k: servers without token ids have no top-k filter"):
        engine.generate(REQUESTS, SamplingParams(4, top_k=3))


def test_requests_are_many_at_once_and_come_back_in_order(served):
    engine, stand_in = served("vllm")

    def slow(handler, answer):
        end = time.monotonic() + 30
        while stand_in.most_at_once < 5 and time.monotonic() < end:
            time.sleep(0.01)
        return answer

    stand_in.faults = [slow] * 4  # the first ones are the last to be answered
    ours = list(engine.generate(REQUESTS, SamplingParams(8, seed=1)))
    assert stand_in.most_at_once > 4
    again = list(engine.generate(REQUESTS, SamplingParams(8, seed=1)))
    same(ours, again)


def test_no_more_requests_at_once_than_allowed(folder, model, tokenizer):
    stand_in = StandIn(model, tokenizer, "vllm")
    both = threading.Barrier(2, timeout=30)
    stand_in.faults = [lambda handler, answer: (both.wait() and answer) or answer] * 2
    with serving(stand_in) as url:
        engine = load_engine(str(folder), "openai", tokenizer=tokenizer, servers=Servers((url,), concurrency=2))
        assert len(list(engine.generate(REQUESTS, SamplingParams(4)))) == len(REQUESTS)
        engine._connections.close()
    assert stand_in.most_at_once == 2


def test_several_servers_share_the_requests(folder, model, tokenizer):
    stand_ins = [StandIn(model, tokenizer, dialect) for dialect in ("vllm", "llama.cpp")]
    with serving(stand_ins[0]) as one, serving(stand_ins[1]) as two:
        servers = Servers((one, f"{two}/v1/"), concurrency=2)
        engine = load_engine(str(folder), "openai", tokenizer=tokenizer, servers=servers)
        ours = list(engine.generate(REQUESTS, SamplingParams(8, temperature=0.0)))
        engine._connections.close()
    same(ours, list(TransformersEngine(model, tokenizer).generate(REQUESTS, SamplingParams(8, temperature=0.0))))
    assert all(len(stand_in.asked) > 2 for stand_in in stand_ins)


def test_few_requests_go_to_all_servers(folder, model, tokenizer):
    stand_ins = [StandIn(model, tokenizer, "vllm") for _ in range(2)]
    with serving(stand_ins[0]) as one, serving(stand_ins[1]) as two:
        servers = Servers((one, two), concurrency=64)
        engine = load_engine(str(folder), "openai", tokenizer=tokenizer, servers=servers)
        before = [len(stand_in.asked) for stand_in in stand_ins]
        list(engine.generate(REQUESTS[:2], SamplingParams(2)))
        engine._connections.close()
    assert [len(stand_in.asked) - n for stand_in, n in zip(stand_ins, before, strict=True)] == [1, 1]


def test_an_error_of_ours_in_a_request_is_that_error(served):
    engine, _ = served("vllm")

    async def wrong(server):
        raise TypeError("half a character")

    with pytest.raises(TypeError, match="half a character"):
        list(engine._connections.results([wrong]))


@pytest.mark.parametrize(("dialect", "context"), [("vllm", 100), ("sglang", 98), ("llama.cpp", 100)])
def test_the_context_that_servers_leave_us(served, dialect, context):
    engine, _ = served(dialect, context=100)
    assert engine.max_length == context


def test_an_adapter_has_the_context_of_its_parent(served, monkeypatch):
    right = StandIn.answer

    def answer(self, path, body):
        found = right(self, path, body)
        if path == "/v1/models":
            found["data"] = [{"id": "base", "max_model_len": 60}, {"id": "tiny", "parent": "base"}]
        return found

    monkeypatch.setattr(StandIn, "answer", answer)
    engine, _ = served("vllm")
    assert engine.max_length == 60


def test_a_server_that_answers_everything_is_not_taken_for_another(served, monkeypatch):
    """LM Studio answers unknown addresses with an error of status 200."""
    right = StandIn.answer
    monkeypatch.setattr(StandIn, "answer", lambda self, path, body: right(self, path, body) or {"error": "unexpected"})
    engine, _ = served("text")
    assert type(engine).__name__ == "TextServerEngine"


def test_a_consumer_that_stops_ends_the_requests(served):
    engine, stand_in = served("vllm")
    found = engine.generate(REQUESTS * 50, SamplingParams(8))
    next(found)
    found.close()
    asked = -1
    while asked < (asked := len(stand_in.asked)):  # those in flight
        time.sleep(0.3)
    assert asked < len(REQUESTS) * 50
    assert len(list(engine.generate(REQUESTS[:2], SamplingParams(2)))) == 2


def test_connections_that_are_collected_in_their_own_thread_close():
    """The garbage collector may run there."""
    others = threading.enumerate()
    connections = Connections(Servers(("http://127.0.0.1:9",)))
    (thread,) = [found for found in threading.enumerate() if found not in others]
    loop = connections._loop
    loop.call_soon_threadsafe(connections._stop)
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert loop.is_closed()
    connections.close()


def test_connections_that_nobody_has_close_without_waiting():
    others = threading.enumerate()
    connections = Connections(Servers(("http://127.0.0.1:9",)))
    (thread,) = [found for found in threading.enumerate() if found not in others]
    connections._loop.call_soon_threadsafe(time.sleep, 1)
    began = time.perf_counter()
    del connections
    assert time.perf_counter() - began < 0.9
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_the_key_is_sent_and_told_to_nobody(served, monkeypatch, folder, tokenizer):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    engine, stand_in = served("vllm")
    list(engine.generate(REQUESTS[:1], SamplingParams(2)))
    assert stand_in.headers["authorization"] == "Bearer secret-key"
    monkeypatch.setenv("OPENAI_API_KEY", "se\ncret")
    with pytest.raises(InputError) as told:
        served("vllm")
    assert str(told.value) == "OPENAI_API_KEY: has characters that no key has"


def test_a_prompt_that_fills_the_context_is_refused_and_room_is_left(served):
    engine, _ = served("vllm", context=12)
    assert engine.max_length == 12
    (found,) = engine.generate([Request(tuple(b"12345678"), "a")], SamplingParams(50, temperature=0.0))
    assert (len(found.ids), found.stop_reason) == (4, StopReason.LENGTH)
    for prompt, message in ((b"", "has no tokens"), (b"123456789012", "has 12 tokens, the model reads 12")):
        with pytest.raises(InputError, match=message):
            engine.generate([Request(tuple(prompt), "a")], SamplingParams(5))


@pytest.mark.parametrize(
    ("urls", "more", "message"),
    [
        ((), {}, "base_url: the addresses of the servers are missing"),
        (("localhost:8000",), {}, "base_url: 'localhost:8000' is no address like http://localhost:8000"),
        (("http://a:x",), {}, "base_url: 'http://a:x' is no address"),
        (("http://a", "http://a/"), {}, "base_url: an address is given twice"),
        (("http://a", "http://a/v1"), {}, "base_url: an address is given twice"),
        (("http://[::1]x:1",), {}, "http://.*Invalid"),
        (("http://127.0.0.1:9",), {"dtype": "bfloat16"}, "dtype: is that of the server"),
        (("http://127.0.0.1:9",), {"engine": "transformers"}, "base_url: the engine transformers asks no servers"),
        (("http://127.0.0.1:9",), {}, r"http://127.0.0.1:9: ConnectError.*\(1 attempts\)"),
        (("http://user:word@127.0.0.1:9",), {}, r"^http://127.0.0.1:9: ConnectError"),
    ],
)
def test_settings_that_cannot_be(folder, tokenizer, urls, more, message):
    engine, settings = more.pop("engine", "openai") if "engine" in more else "openai", dict(more)
    settings.pop("engine", None)
    with pytest.raises(InputError, match=message):
        load_engine(str(folder), engine, tokenizer=tokenizer, servers=Servers(urls, retries=0), **settings)


def test_a_model_in_memory_is_on_no_server(model, tokenizer):
    with pytest.raises(InputError, match="model: a model in memory is on no server"):
        load_engine(model, "openai", tokenizer=tokenizer, servers=Servers(("http://127.0.0.1:9",)))


def test_ends_are_those_of_the_model_here_without_a_generation_config(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": [257, 65]}))
    (tmp_path / "generation_config.json").unlink()
    here = load_engine(str(tmp_path), tokenizer=tokenizer)
    assert Policy.of(str(tmp_path), tokenizer, False).ends == here.ends
    assert 65 in here.ends.stop


@pytest.mark.parametrize(
    ("text", "own", "same_text"),
    [
        ("ab", "ab", True),
        ("ab", " ab", True),
        ("ab", "abc", False),
        ("a\ufffd\ufffd", "a\ufffd", True),
        ("I am happy", "I am happy \ufffd", True),  # a token with its space is held back
        ("I am sad", "I am happy \ufffd", False),
        ("I am happy ", "I am happy", False),
    ],
)
def test_texts_that_are_the_same(text, own, same_text):
    assert _are_same(text, own) == same_text


@pytest.mark.parametrize(
    ("text", "own", "stops"), [("", " word", True), (" ", " word", True), ("a", "a b", True), ("a", "ab", False)]
)
def test_texts_that_stop_at_a_space(text, own, stops):
    assert _stops_at(text, own, (" ",)) == stops
