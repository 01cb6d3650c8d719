"""Engines by name; a new one is a module and a line."""

import sys
import types

import numpy as np
import pytest

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.engines import engine as engines
from stepcredit.engines.engine import Engine, Generation, Request, SamplingParams, SteppingEngine, load_engine
from stepcredit.engines.scripted import ScriptedEngine
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.turns import turn_ends
from stepcredit.errors import InputError


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
    with pytest.raises(InputError, match=r"^engine: unknown engine 'vllm'; choose from transformers$"):
        load_engine(str(tmp_path), "vllm")


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
    module.load = lambda model, *, tokenizer, batch_size, trust_remote_code: Echo(tokenizer, batch_size)
    monkeypatch.setitem(sys.modules, "echo_engine", module)
    monkeypatch.setitem(engines.ENGINES, "echo", "echo_engine")
    engine = load_engine("anything", "echo", tokenizer=byte_tokenizer(), batch_size=3)
    assert isinstance(engine, Engine)
    assert isinstance(ScriptedEngine(lambda request: [], byte_tokenizer()), Engine)
    assert not isinstance(engine, SteppingEngine)
    (drawn,) = engine.generate([Request((65,), "p")], SamplingParams(4))
    assert drawn.ids.tolist() == [65, 257]
