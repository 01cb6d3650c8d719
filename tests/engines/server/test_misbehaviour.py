"""A server that misbehaves in every way: it is asked again and the response is the right one, or one line says what was
seen. No response is ever a wrong one."""

import json
import time

import pytest

from doubles.models import tiny_llama
from doubles.servers import StandIn, send, serving
from doubles.tokenizers import byte_tokenizer
from stepcredit.engines.engine import Request, SamplingParams, Servers, load_engine
from stepcredit.engines.server import connection, recognition
from stepcredit.engines.server.connection import ServerError
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.errors import InputError

REQUESTS = [Request(tuple(text.encode()), text) for text in ("2+3=", "hello", "x")]
PARAMS = SamplingParams(12, temperature=0.0)
MODEL, TOKENIZER = tiny_llama(seed=3), byte_tokenizer()
EXPECTED = [(g.ids.tolist(), g.stop_reason) for g in TransformersEngine(MODEL, TOKENIZER).generate(REQUESTS, PARAMS)]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "tiny"
    MODEL.save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


def status(code, said="oh no", **headers):
    return lambda handler, answer: send(handler, {"error": said}, code, **headers)


def raw(content, kind="application/json"):
    return lambda handler, answer: send(handler, content, kind=kind)


def changed(**more):
    """Parts of the only choice of a vLLM answer, changed: a value, or a function of the value."""

    def fault(handler, answer):
        for name, value in more.items():
            choice = answer["choices"][0]
            choice[name] = value(choice[name]) if callable(value) else value
        return answer

    return fault


def cut_in_the_middle(handler, answer):
    body = json.dumps(answer).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.shutdown(2)


def hang(handler, answer):
    time.sleep(4.0)
    return answer


def drip(handler, answer):
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(10):
        time.sleep(0.4)
        handler.wfile.write(b" ")
        handler.wfile.flush()


def hang_up(handler, answer):
    handler.close_connection = True
    handler.connection.shutdown(2)


def log_probs(change):
    return changed(logprobs=lambda given: {"token_logprobs": change(given["token_logprobs"])})


PASSING = {
    "an error of the server": (status(500), "status 500 .*oh no"),
    "a bad gateway": (status(502), "status 502"),
    "overload": (status(503), "status 503"),
    "too many requests": (status(429, Retry_After="0.05"), "status 429"),
    "too many requests until a date": (status(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), "status 429"),
    "a pause without end": (status(503, Retry_After="nan"), "status 503"),
    "silence": (hang, "no answer within 3 s"),
    "an answer drop by drop": (drip, "no answer within 3 s"),
    "a connection that is closed": (hang_up, "RemoteProtocolError|ReadError"),
    "death in the middle of an answer": (cut_in_the_middle, "RemoteProtocolError|ReadError"),
    "truncated JSON": (raw(b'{"choices": [{"text": "ab'), "an answer that is not JSON"),
    "an empty body": (raw(b""), "an answer that is not JSON"),
    "bytes that are no text": (raw(b"\xff\xfe\x00"), "an answer that is not JSON"),
    "nesting without end": (raw(b"[" * 100_000), "an answer that is not JSON"),
    "a page of HTML": (raw(b"<html>Sign in</html>", "text/html"), "type 'text/html' instead of JSON"),
    "an answer without end": (raw(b'{"choices": [' + b"0, " * 200_000), "an answer of more than 2480.. bytes"),
    "an answer that is a list": (raw(b"[1, 2]"), "an answer without choices"),
    "null": (raw(b"null"), "an answer without choices"),
    "an error with status 200": (raw(b'{"error": "out of memory"}'), "an answer without choices.*out of memory"),
    "no choices": (raw(b'{"choices": []}'), "0 choices, where 1 was asked for"),
    "choices that are no list": (raw(b'{"choices": 3}'), "choices is 3, not a list"),
    "two choices": (lambda h, a: {"choices": a["choices"] * 2}, "2 choices, where 1 was asked for"),
    "no ids": (changed(token_ids=None), "token_ids is None, not a list"),
    "an empty response": (changed(token_ids=[], logprobs={"token_logprobs": []}, text=""), "0 tokens, where 1 to 12"),
    "more tokens than asked for": (
        lambda h, a: changed(token_ids=lambda i: i * 2)(h, log_probs(lambda n: n * 2)(h, a)),
        "24 tokens, where 1 to 12"),
    "fewer tokens than asked for": (
        lambda h, a: changed(token_ids=lambda i: i[:5], text=lambda t: t[:5])(h, log_probs(lambda n: n[:5])(h, a)),
        "cut after 5 tokens, where 12 were asked for"),
    "an id beyond the vocabulary": (changed(token_ids=lambda i: [*i[:-1], 259]), "259 is none of the policy's 259"),
    "a negative id": (changed(token_ids=lambda i: [-1, *i[1:]]), "-1 is none of the policy's"),
    "an id that is text": (changed(token_ids=lambda i: ["a", *i[1:]]), "'a' is none of the policy's"),
    "an id that is a fraction": (changed(token_ids=lambda i: [1.5, *i[1:]]), "1.5 is none of the policy's"),
    "an id that is true": (changed(token_ids=lambda i: [True, *i[1:]]), "True is none of the policy's"),
    "an id without end": (
        lambda h, a: send(h, json.dumps(a).replace(str(a["choices"][0]["token_ids"]), f"[{'9' * 5000}]").encode()),
        "an answer that is not JSON"),
    "ids of another text": (changed(token_ids=lambda i: [65] * len(i)), "is not that of the ids"),
    "a text of other ids": (changed(text="AAAA"), "the text 'AAAA' is not that of the ids"),
    "a text that is a number": (changed(text=4), "a text that is 4"),
    "log-probabilities that are NaN": (log_probs(lambda n: [float("nan"), *n[1:]]), "nan is no log-probability"),
    "log-probabilities beyond all numbers": (log_probs(lambda n: [-(10**400), *n[1:]]), "-1000.* is no log-prob"),
    "log-probabilities that are infinite": (log_probs(lambda n: [float("-inf"), *n[1:]]), "-inf is no log-"),
    "log-probabilities above zero": (log_probs(lambda n: [0.5, *n[1:]]), "0.5 is no log-probability"),
    "log-probabilities that are null": (log_probs(lambda n: [None, *n[1:]]), "None is no log-probability"),
    "log-probabilities of another length": (log_probs(lambda n: n[1:]), "11 log-probabilities for 12 tokens"),
    "no log-probabilities": (changed(logprobs=None), "an answer without logprobs.token_logprobs"),
    "the answer to another prompt": (changed(prompt_token_ids=[1, 2, 3]), "prompt_token_ids are not those"),
}  # fmt: skip
"""What a server does: a fault, and what is told of it if it does so for good."""

REFUSED = {
    "a redirect to elsewhere": (
        status(302, Location="http://elsewhere.example/v1"),
        "redirects to 'http://elsewhere.example/v1', which is not followed",
    ),
    "a bad request": (status(400, "prompt too long"), "refuses /v1/completions .status 400 .*prompt too long"),
    "a key that is refused": (status(401), "refuses the key of OPENAI_API_KEY, or its absence"),
    "a forbidden model": (status(403), "refuses the key of OPENAI_API_KEY"),
    "an address that is gone": (status(404), "refuses /v1/completions .status 404"),
    "an unprocessable request": (status(422), "status 422"),
    "not implemented": (status(501), "status 501"),
}
"""What is asked no second time, and what is told of it."""


def patience(kind):
    """The time-out: short where it is what is tested."""
    return 3.0 if kind in ("silence", "an answer drop by drop") else 60.0


def loaded(folder, *urls, retries=2, timeout=60.0, **more):
    servers = Servers(urls, retries=retries, request_timeout=timeout, concurrency=4, **more)
    return load_engine(str(folder), "openai", tokenizer=TOKENIZER, servers=servers)


def generated(engine):
    try:
        return [(g.ids.tolist(), g.stop_reason) for g in engine.generate(REQUESTS, PARAMS)]
    finally:
        engine._connections.close()


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_asked_again(folder, kind):
    stand_in = StandIn(MODEL, TOKENIZER, "vllm")
    stand_in.faults = [PASSING[kind][0]] * 2
    with serving(stand_in) as url:
        assert generated(loaded(folder, url, retries=4, timeout=patience(kind))) == EXPECTED
    assert len(stand_in.asked) == len(REQUESTS) + 2 or patience(kind) < 60


@pytest.mark.parametrize("kind", [*PASSING, *REFUSED])
def test_what_stays_is_one_line(folder, kind):
    fault, message = (PASSING | REFUSED)[kind]
    stand_in = StandIn(MODEL, TOKENIZER, "vllm")
    stand_in.faults, stand_in.stuck = [fault], True
    with serving(stand_in) as url, pytest.raises(ServerError, match=message) as told:
        generated(loaded(folder, url, retries=0 if patience(kind) < 60 else 1, timeout=patience(kind)))
    assert str(told.value).startswith(url)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600
    assert len(stand_in.asked) <= len(REQUESTS) * (1 if kind in REFUSED else 2)


@pytest.mark.parametrize("fault", [status(500), hang_up, raw(b"{")], ids=["500", "closed", "garbled"])
def test_a_dead_server_leaves_its_requests_to_the_others(folder, fault):
    dead, alive = StandIn(MODEL, TOKENIZER, "vllm"), StandIn(MODEL, TOKENIZER, "vllm")
    dead.faults, dead.stuck = [fault], True
    with serving(dead) as one, serving(alive) as two:
        engine = loaded(folder, one, two, retries=1)
        ours = list(engine.generate(REQUESTS * 4, PARAMS))
        assert [(g.ids.tolist(), g.stop_reason) for g in ours] == EXPECTED * 4
        asked = len(dead.asked)
        assert generated(engine) == EXPECTED
    assert len(dead.asked) == asked > 0


def test_when_all_are_dead_the_line_names_each_and_what_was_seen(folder):
    stand_ins = [StandIn(MODEL, TOKENIZER, "vllm") for _ in range(2)]
    for stand_in, fault in zip(stand_ins, (status(500), raw(b"{"))):
        stand_in.faults, stand_in.stuck = [fault], True
    with serving(stand_ins[0]) as one, serving(stand_ins[1]) as two:
        with pytest.raises(ServerError) as told:
            generated(loaded(folder, one, two, retries=1))
        first, second = str(told.value).split("; ")
        assert first.startswith(f"{one}: status 500")
        assert second.startswith(f"{two}: an answer that is not JSON")
        assert "(2 attempts)" in first


def test_a_pause_that_the_server_asks_for_is_made(folder):
    stand_in = StandIn(MODEL, TOKENIZER, "vllm")
    with serving(stand_in) as url:
        engine = loaded(folder, url, timeout=30.0)
        stand_in.faults = [status(429, Retry_After="0.4")]
        start = time.monotonic()
        assert generated(engine) == EXPECTED
    assert time.monotonic() - start >= 0.4


class Other(StandIn):
    """A stand-in that answers some addresses otherwise."""

    def __init__(self, dialect="vllm", **given):
        super().__init__(MODEL, TOKENIZER, dialect, **{k: v for k, v in given.items() if k == "name"})
        self.given = {k.replace("_", "/", 1): v for k, v in given.items() if k != "name"}

    def answer(self, path, body):
        name = path.strip("/").replace("v1/", "")
        return self.given[name] if name in self.given else super().answer(path, body)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Other(name="another"), "serves 'another', not '.*tiny'; serve that, or give its name there as --server_model"),
        (Other(tokenize={"tokens": [1, 2, 3]}), r"its tokenizer is not that of --model: for 'Question.*\[1, 2, 3\]"),
        (Other("llama.cpp", tokenize={"tokens": []}), "its tokenizer is not that of --model"),
        (Other(tokenize={"count": 3}), "an answer without tokens"),
        (Other(models={"data": "none"}), "data is 'none', not a list"),
        (Other(models=None, version=None), "offers neither /v1/models nor /props"),
        (Other("text", completions={"choices": [], "usage": {"prompt_tokens": 5}}), "it gives 5 tokens instead of"),
    ],
    ids=["model", "tokenizer", "llama.cpp's tokenizer", "no tokens", "no list", "nothing", "text"],
)
def test_another_server_than_the_policys_is_refused_at_the_start(folder, other, message):
    with serving(other) as url, pytest.raises(InputError, match=message) as told:
        loaded(folder, url, retries=1)
    assert str(told.value).startswith(url)
    assert other.asked == []


def test_servers_with_and_without_ids_are_not_mixed(folder):
    told = pytest.raises(InputError, match="base_url: some of the servers give token ids and others do not")
    with serving(Other()) as one, serving(Other("text")) as two, told:
        loaded(folder, one, two)


def test_a_name_on_the_server_is_taken_literally(folder):
    with serving(Other(name="adapter")) as url:
        assert generated(loaded(folder, url, server_model="adapter")) == EXPECTED
        with pytest.raises(ServerError, match="serves 'adapter', not 'tiny'"):
            loaded(folder, url, server_model="tiny")


@pytest.mark.parametrize(
    ("offered", "wanted", "is_same"),
    [
        ("tiny", "out/tiny", True),
        ("/srv/out/tiny", "out/tiny", True),
        ("Tiny.Q4.gguf", "models/Tiny.Q4.gguf", True),
        ("out/round1/train/policy", "out/round1/train/policy", True),
        ("/srv/out/round1/train/policy", "out/round1/train/policy", True),
        ("out/round1/train/policy", "out/round2/train/policy", False),
        ("policy", "out/round2/train/policy", False),
        ("other/tiny", "out/tiny", False),
        ("", "out/tiny", False),
    ],
)
def test_the_end_of_a_path_is_a_name_but_not_one_that_every_policy_has(offered, wanted, is_same):
    assert recognition._are_alike(offered, wanted) is is_same
