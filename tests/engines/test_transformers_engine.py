"""The cached, batched engine against a slow and obvious one: one row, no cache, no padding, float64."""

import numpy as np
import pytest
import torch

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.engines.decoding import ContinuationRequest
from stepcredit.engines.engine import Request, SamplingParams
from stepcredit.engines.noise import stream_key, uniform
from stepcredit.engines.stepping import CachedStepper
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError

EOS = 257


@pytest.fixture(scope="module")
def model():
    """Random weights sharpened so that end tokens come at different times."""
    model = tiny_llama(seed=1).double()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(6)
    return model


REQUESTS = [
    Request(tuple(text.encode()), prompt_id=text, sample=k)
    for text in ("2+2=", "a", "longer prompt: ")
    for k in range(4)
]


def obvious(model, request, params, end=(EOS,)):
    ids, log_probs = list(request.prompt_ids), []
    key = np.array([stream_key(params.seed, request.prompt_id, request.sample)])
    for position in range(params.max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        if params.temperature == 0:
            probs, token = logits.softmax(-1), int(logits.argmax())
        else:
            probs = (logits / params.temperature).softmax(-1)
            token = int((probs.cumsum(-1) <= uniform(key, position)[0]).sum())
        ids.append(token)
        log_probs.append(float(probs[token].log()))
        if token in end:
            break
    return ids[len(request.prompt_ids) :], log_probs


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_equals_the_obvious_engine(model, temperature):
    params = SamplingParams(max_new_tokens=12, temperature=temperature, seed=3)
    engine = TransformersEngine(model, byte_tokenizer(), batch_size=5, end_ids=(EOS, 10, 64, 200, 30, 77))
    found = list(engine.generate(REQUESTS, params))
    for request, generation in zip(REQUESTS, found, strict=True):
        ids, log_probs = obvious(model, request, params, engine.ends.stop)
        assert generation.ids.tolist() == ids
        np.testing.assert_allclose(generation.log_prob, log_probs, rtol=1e-5)
        ended = ids[-1] in engine.ends.stop
        assert generation.stop_reason is (StopReason.STOP if ended else StopReason.LENGTH)


def test_order_and_batching_do_not_change_the_draw(model):
    params = SamplingParams(max_new_tokens=10, seed=5)
    alone = {
        (r.prompt_id, r.sample): g.ids.tolist()
        for r, g in zip(REQUESTS, TransformersEngine(model, byte_tokenizer(), 1).generate(REQUESTS, params))
    }
    shuffled = REQUESTS[::-1]
    together = TransformersEngine(model, byte_tokenizer(), 7).generate(shuffled, params)
    assert {(r.prompt_id, r.sample): g.ids.tolist() for r, g in zip(shuffled, together)} == alone
    assert len({tuple(v) for v in alone.values()}) > 6


def test_seeds_differ(model):
    draws = [
        [
            g.ids.tolist()
            for g in TransformersEngine(model, byte_tokenizer()).generate(REQUESTS, SamplingParams(8, seed=s))
        ]
        for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_a_stop_string_ends_the_response_and_stays_in_it(model):
    params = SamplingParams(max_new_tokens=30, seed=0)
    free = next(iter(TransformersEngine(model, byte_tokenizer()).generate(REQUESTS[:1], params))).ids.tolist()
    text = byte_tokenizer().decode(free)
    printable = next(text[i : i + 2] for i in range(3, len(text) - 1) if text[i : i + 2].isascii())
    stopped = next(
        iter(
            TransformersEngine(model, byte_tokenizer()).generate(
                REQUESTS[:1], SamplingParams(30, seed=0, stop=(printable,))
            )
        )
    )
    cut = byte_tokenizer().decode(stopped.ids.tolist())
    assert cut == text[: text.index(printable) + 2]
    assert stopped.stop_reason is StopReason.STOP


def test_prompts_that_leave_no_room(model):
    engine = TransformersEngine(model, byte_tokenizer())
    with pytest.raises(InputError, match="prompt x: the prompt has 256 tokens, the model reads 256"):
        list(engine.generate([Request((1,) * 256, "x")], SamplingParams(1)))
    with pytest.raises(InputError, match="prompt x: the prompt has no tokens"):
        list(engine.generate([Request((), "x")], SamplingParams(1)))
    short = next(iter(engine.generate([Request((1,) * 254, "x")], SamplingParams(10))))
    assert len(short.ids) <= 2


@pytest.mark.parametrize("given", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 9}, {"stop": ("e", "00")}])
def test_plain_generation_draws_what_a_stepper_without_delimiters_draws(model, given):
    params = SamplingParams(12, seed=4, **given)
    tokenizer = byte_tokenizer()
    engine = TransformersEngine(model, tokenizer, 5, end_ids=(EOS, 10, 64, 200, 30, 77))
    plain = list(engine.generate(REQUESTS, params))
    stepper = CachedStepper(model, tokenizer, params, StepRule(()), engine.ends.stop)
    stepper.start([request.prompt_ids for request in REQUESTS])
    keys = [stream_key(params.seed, request.prompt_id, request.sample) for request in REQUESTS]
    pieces = stepper.draw([ContinuationRequest(row, key, 0, 12) for row, key in enumerate(keys)])
    assert [generation.ids.tolist() for generation in plain] == [list(piece.ids) for piece in pieces]
    assert [generation.stop_reason for generation in plain] == [piece.stop_reason for piece in pieces]
    for generation, piece in zip(plain, pieces):
        np.testing.assert_allclose(generation.log_prob, piece.log_prob, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_whose_cache_is_a_sliding_window(temperature):
    """Its rows cannot be chosen and copied, as a search would: they go on and drop out, and draw as they should."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(2)
    config = MistralConfig(
        vocab_size=259, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, sliding_window=5, bos_token_id=None, eos_token_id=EOS,
        pad_token_id=256,
    )  # fmt: skip
    sliding = MistralForCausalLM(config).double().eval()
    with torch.no_grad():
        sliding.model.embed_tokens.weight.mul_(60)
    params = SamplingParams(max_new_tokens=14, temperature=temperature, seed=3)
    ends = tuple(range(0, 256, 9))
    engine = TransformersEngine(sliding, byte_tokenizer(), batch_size=7, end_ids=ends)
    lengths = set()
    for request, generation in zip(REQUESTS, engine.generate(REQUESTS, params), strict=True):
        ids, log_probs = obvious(sliding, request, params, ends)
        assert generation.ids.tolist() == ids
        np.testing.assert_allclose(generation.log_prob, log_probs, rtol=1e-5)
        lengths.add(len(ids))
    assert len(lengths) > 1
    with pytest.raises(InputError, match="not searchable"):
        CachedStepper(sliding, byte_tokenizer(), params, StepRule(()), frozenset(ends)).start([[1, 2]])
