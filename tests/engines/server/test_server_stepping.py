"""Steps, beams and conversations from servers equal those from the model here."""

import numpy as np
import pytest

from doubles.models import tiny_llama
from doubles.servers import StandIn, serving
from doubles.tokenizers import byte_tokenizer
from stepcredit.engines.decoding import ContinuationRequest
from stepcredit.engines.engine import Request, SamplingParams, Servers, load_engine
from stepcredit.engines.noise import stream_key
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.steps import StepRule
from stepcredit.searching.beam import beam_search
from stepcredit.searching.scorers import FunctionScorer
from stepcredit.searching.spec import SearchSpec

WITH_IDS = ("vllm", "sglang", "llama.cpp")
TOKENIZER = byte_tokenizer()
PROMPTS = [tuple(text.encode()) for text in ("2+3=", "hello", "A longer question")]
RULES = [
    StepRule(()),
    StepRule(("e", "\n")),
    StepRule((" ", "q"), 7),
    StepRule(("a", "o", "t"), 3),
    StepRule((". ",), 5),
]


@pytest.fixture(scope="module")
def model():
    """A policy whose likeliest bytes are those of text, so that steps end in many ways."""
    import torch

    model = tiny_llama(seed=4, tied=False)
    with torch.no_grad():
        model.lm_head.weight *= 12
        bias = torch.full((259,), -1.0)
        bias[list(b"aeiot .\n")] = 1.0
        hook = lambda module, inputs, logits: logits + 3 * bias  # noqa: E731
    model.lm_head.register_forward_hook(hook)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "tiny"
    tiny_llama(tied=False).save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


@pytest.fixture(params=WITH_IDS)
def engines(request, folder, model):
    """The engine of a server, and the one here."""
    stand_in = StandIn(model, TOKENIZER, request.param)
    with serving(stand_in) as url:
        engine = load_engine(str(folder), "openai", tokenizer=TOKENIZER, servers=Servers((url,)))
        yield engine, TransformersEngine(model, TOKENIZER)
        engine._connections.close()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: repr(rule.delimiters))
def test_greedy_steps_are_those_of_the_model_here(engines, rule):
    params = SamplingParams(20, temperature=0.0, stop=("zz",))
    steppers = [engine.stepper(params, rule) for engine in engines]
    for stepper in steppers:
        stepper.start(PROMPTS)
    done = [0] * len(PROMPTS)
    for round_ in range(4):
        draws = [ContinuationRequest(row, stream_key(0, str(row), round_), n, 24 - n) for row, n in enumerate(done)]
        ours, theirs = ([*stepper.draw(draws)] for stepper in steppers)
        for one, other in zip(ours, theirs):
            assert (one.ids, one.stop_reason, one.text, one.drawn, one.following) == (
                other.ids, other.stop_reason, other.text, other.drawn, other.following)  # fmt: skip
            known = ~np.isnan(one.log_prob)
            np.testing.assert_allclose(np.array(one.log_prob)[known], np.array(other.log_prob)[known], atol=1e-4)
        if any(piece.stop_reason for piece in theirs):
            break
        done = [n + len(piece.ids) for n, piece in zip(done, theirs)]
        for stepper in steppers:
            stepper.keep([0, 1, 2])
            stepper.extend([(), (), (104, 105)] if round_ == 1 and rule.delimiters == () else [(), (), ()])


def test_fresh_continuations_begin_a_step_of_their_own(engines):
    """Of several continuations the first has the stored token, and every other one begins a step with its own."""
    engine, _ = engines
    rule = StepRule(("e",), 12)
    stepper = engine.stepper(SamplingParams(60), rule)
    stepper.start(PROMPTS[:1])
    kept = next(
        k
        for k in range(20)
        for piece in stepper.draw([ContinuationRequest(0, stream_key(k, "a", 0), 0, 60)])
        if piece.following is not None and not stepper.keep([0])
    )
    assert kept < 20
    stored = stepper._next[0]
    draws = [ContinuationRequest(0, stream_key(7, "a", k), 5, 40, fresh=k > 0) for k in range(12)]
    pieces = stepper.draw(draws)
    assert pieces[0].ids[0] == stored.token
    assert pieces[0].drawn == len(pieces[0].ids) + (pieces[0].following is not None) - 1
    assert len({piece.ids[0] for piece in pieces}) > 1
    for piece in pieces[1:]:
        first = engine.tokenizer.decode([piece.ids[0]])
        assert stored.step.ends_before(first) or piece.ids[0] == stored.token


def test_a_greedy_beam_search_is_that_of_the_model_here(engines):
    spec = SearchSpec("beam", 1, SamplingParams(30, temperature=0.0), continuations=1)
    scorer = FunctionScorer(lambda rows: [len(set(row)) for row in rows])
    requests = [Request(prompt, str(k)) for k, prompt in enumerate(PROMPTS)]
    ours, theirs = (
        beam_search(requests, engine.stepper(spec.params, StepRule(("e", "\n"), 8)), scorer, spec) for engine in engines
    )
    for one, other in zip(ours, theirs):
        assert [(r.ids, r.stop_reason, repr(r.value)) for r in one.pool] == [
            (r.ids, r.stop_reason, repr(r.value)) for r in other.pool
        ]
        assert one.tokens_generated == other.tokens_generated
        assert [node.text for node in one.nodes] == [node.text for node in other.nodes]


def test_a_sampled_beam_search_is_the_same_again(engines):
    engine, _ = engines
    spec = SearchSpec("beam", 2, SamplingParams(24, seed=3))
    scorer = FunctionScorer(lambda rows: [len(set(row)) for row in rows])
    requests = [Request(prompt, str(k)) for k, prompt in enumerate(PROMPTS)]
    found = [
        beam_search(some, engine.stepper(spec.params, StepRule(("e", "\n"), 8)), scorer, spec)
        for some in (requests, requests[::-1])
    ]
    for one, other in zip(found[0], found[1][::-1]):
        assert [r.ids for r in one.pool] == [r.ids for r in other.pool]
        assert one.tokens_generated == other.tokens_generated


def test_every_request_of_a_response_has_noise_of_its_own_and_asks_for_no_more_than_it_needs(folder, model):
    """After a delimiter only the next token tells whether the step is over, so one token is asked for."""
    stand_in = StandIn(model, TOKENIZER, "vllm")
    with serving(stand_in) as url:
        engine = load_engine(str(folder), "openai", tokenizer=TOKENIZER, servers=Servers((url,)))
        stepper = engine.stepper(SamplingParams(60), StepRule(("e", " ", "i"), 12))
        stepper.start(PROMPTS[:1])
        for n in range(3):
            stepper.draw([ContinuationRequest(0, stream_key(0, "a", 0), 16 * n, 60)])
            stepper.keep([0])
        engine._connections.close()
    bodies = [body for _, body in stand_in.asked]
    assert len({body["seed"] for body in bodies}) == len(bodies) >= 3
    assert {body["max_tokens"] for body in bodies if body["prompt"][-1:] in ([101], [32], [105])} == {1}
