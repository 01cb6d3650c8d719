"""Engines by name; a new one is a module and a line."""

import sys
import types

import numpy as np
import pytest
import torch

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.engines import engine as engines
from stepcredit.engines.engine import Engine, Generation, Request, SamplingParams, SteppingEngine, load_engine
from stepcredit.engines.scripted import ScriptedEngine
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.turns import turn_ends
from stepcredit.errors import InputError
from stepcredit.models.loading import load_policy


def test_a_policy_from_a_folder_or_in_memory(tmp_path):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    requests, params = [Request((65, 66), "p", k) for k in range(3)], SamplingParams(5)
    drawn = [
        [g.ids.tolist() for g in engine.generate(requests, params)]
        for engine in (
            load_engine(str(tmp_path), batch_size=2),
            load_engine(model, tokenizer=tokenizer),
            TransformersEngine(model, tokenizer),
        )
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    loaded = load_engine(str(tmp_path), batch_size=2)
    assert (loaded.batch_size, loaded.ends, loaded.max_length) == (2, turn_ends(loaded.tokenizer), 256)
    assert isinstance(loaded, SteppingEngine)


def test_an_unknown_name_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^engine: unknown engine 'vllm'; choose from transformers, openai$"):
        load_engine(str(tmp_path), "vllm")


@torch.no_grad()
def test_the_log_probabilities_are_those_of_the_model_as_loaded(tmp_path):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    model.model.embed_tokens.weight.mul_(20)  # peaked, so that rounding to bf16 shows
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def log_prob(ids, dtype):
        row = torch.tensor([[65, 66, *ids]])
        logits = load_policy(str(tmp_path), dtype=dtype)(row).logits.double()[0, 1:-1]
        return logits.log_softmax(-1).gather(-1, row[0, 2:, None])[:, 0].numpy()

    engine = load_engine(str(tmp_path), dtype="bfloat16")
    assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.bfloat16}
    (drawn,) = engine.generate([Request((65, 66), "p")], SamplingParams(12))
    np.testing.assert_allclose(drawn.log_prob, log_prob(drawn.ids.tolist(), torch.bfloat16), atol=1e-3)
    assert abs(drawn.log_prob - log_prob(drawn.ids.tolist(), torch.float32)).max() > 4e-3
    assert load_engine(str(tmp_path)).model.dtype == torch.float32


@pytest.mark.parametrize(
    ("in_memory", "dtype", "message"),
    [
        (False, "int8", "dtype: unknown 'int8'; choose from float32, bfloat16"),
        (True, "bfloat16", "dtype: a model in memory keeps its own precision"),
    ],
)
def test_a_precision_that_cannot_be_had_is_one_line(in_memory, dtype, message):
    with pytest.raises(InputError, match=f"^{message}"):
        load_engine(tiny_llama() if in_memory else "nowhere", tokenizer=byte_tokenizer(), dtype=dtype)


class Echo:
    """The example of `Engine`'s docstring."""

    def __init__(self, tokenizer, batch_size):
        self.tokenizer, self.ends, self.batch_size = tokenizer, turn_ends(tokenizer), batch_size

    def generate(self, requests, params):
        for request in requests:
            ids = np.array([*request.prompt_ids, self.ends.of_text], dtype=np.int32)
            yield Generation(ids, np.zeros(len(ids), dtype=np.float32), StopReason.STOP)


def test_a_new_engine_is_a_module_and_a_line(monkeypatch):
    module = types.ModuleType("echo_engine")
    module.load = lambda model, *, tokenizer, batch_size, dtype, trust_remote_code: Echo(tokenizer, batch_size)
    monkeypatch.setitem(sys.modules, "echo_engine", module)
    monkeypatch.setitem(engines.ENGINES, "echo", "echo_engine")
    engine = load_engine("anything", "echo", tokenizer=byte_tokenizer(), batch_size=3)
    assert isinstance(engine, Engine)
    assert isinstance(ScriptedEngine(lambda request: [], byte_tokenizer()), Engine)
    assert not isinstance(engine, SteppingEngine)
    (drawn,) = engine.generate([Request((65,), "p")], SamplingParams(4))
    assert drawn.ids.tolist() == [65, 257]
