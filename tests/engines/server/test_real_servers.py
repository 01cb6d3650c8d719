"""Real servers: llama.cpp (`make llama-server`) and `transformers serve`, with SmolLM2 (`make assets`) or a model made
on the spot. Each is skipped where it is absent."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.utils.import_utils import is_serve_available

from doubles.models import tiny_llama
from doubles.real import smollm2_folder, smollm2_gguf
from doubles.tokenizers import byte_tokenizer
from runs.servers.llama_cpp import BINARY, llama_server, started
from stepcredit.cli import main
from stepcredit.engines.engine import Request, SamplingParams, Servers, load_engine
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.encoding import decode, prompt_ids
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.models.loading import load_policy, load_tokenizer
from stepcredit.searching.beam import beam_search
from stepcredit.searching.scorers import FunctionScorer
from stepcredit.searching.spec import SearchSpec

QUESTIONS = ("What is 12 + 30?", "Name three colors.", "Say yes.")


@pytest.fixture(scope="module")
def llama():
    if not BINARY.is_file():
        pytest.skip(f"{BINARY} is absent; `make llama-server` builds it")
    smollm2_gguf()
    with llama_server() as url:
        yield url


@pytest.fixture(scope="module")
def smollm2(llama):
    folder = str(smollm2_folder())
    tokenizer = load_tokenizer(folder)
    engine = load_engine(folder, "openai", tokenizer=tokenizer, servers=Servers((llama,), concurrency=4))
    yield engine
    engine._connections.close()


def requests_of(tokenizer, samples=1):
    asked = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [Request(tuple(prompt_ids(m, tokenizer)), q, k) for q, m in zip(QUESTIONS, asked) for k in range(samples)]


@pytest.mark.long
def test_the_ids_of_llama_cpp_are_proved_and_its_log_probabilities_are_the_models(smollm2):
    """The server computes in 8 bits with the 4-bit weights from which the folder was made: log-probabilities of single
    tokens differ by some hundredths, up to tenths for unlikely ones."""
    policy, tokenizer = load_policy(str(smollm2_folder())).eval(), smollm2.tokenizer
    assert smollm2.max_length == 1024
    assert smollm2.ends == TransformersEngine(policy, tokenizer).ends
    requests = requests_of(tokenizer, 2)
    found = list(smollm2.generate(requests, SamplingParams(24, seed=1)))
    differences = []
    for request, generation in zip(requests, found):
        assert generation.stop_reason is (
            StopReason.STOP if generation.ids[-1] in smollm2.ends.stop else StopReason.LENGTH
        )
        with torch.inference_mode():
            logits = policy(torch.tensor([[*request.prompt_ids, *generation.ids]])).logits[0]
        own = logits.log_softmax(-1)[len(request.prompt_ids) - 1 : -1][range(len(generation.ids)), generation.ids]
        differences += (own.numpy() - generation.log_prob)[~np.isnan(generation.log_prob)].tolist()
    assert len(differences) > 40
    assert np.abs(differences).mean() < 0.15
    assert np.abs(np.mean(differences)) < 0.05


@pytest.mark.long
def test_llama_cpp_stops_at_strings_and_steps(smollm2):
    requests = requests_of(smollm2.tokenizer)
    for generation in smollm2.generate(requests, SamplingParams(24, temperature=0.0, stop=("\n", ","))):
        text = decode(generation.ids.tolist(), smollm2.tokenizer)
        assert sum(text.count(stop) for stop in "\n,") <= 1
        if "\n" in text or "," in text:
            assert generation.stop_reason is StopReason.STOP
    spec = SearchSpec("beam", 2, SamplingParams(24, seed=1))
    scorer = FunctionScorer(lambda rows: [-len(row) for row in rows])
    (result,) = beam_search(requests[1:2], smollm2.stepper(spec.params, StepRule(("\n",), 16)), scorer, spec)
    assert result.error is None
    steps = [node.text for node in result.nodes[1:]]
    assert len(steps) > 3
    assert all("\n" not in step.strip() for step in steps)


@pytest.mark.long
def test_collection_through_llama_cpp_gives_graded_episodes(llama, tmp_path, capsys):
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": "#### 42"}) + "\n" for q in QUESTIONS))
    flags = ["--task", "gsm8k", "--data", str(file), "--num_generations", "2", "--max_new_tokens", "24"]
    out = tmp_path / "episodes"
    command = ["collect", *flags, "--model", str(smollm2_folder()), "--engine", "openai", "--base_url", llama]
    assert main([*command, "--output_dir", str(out), "--split", "test"]) == 0, capsys.readouterr().err
    episodes = list(load_episodes(out))
    assert len(episodes) == 6
    for episode in episodes:
        assert episode.tokens is not None
        assert episode.truncated == (episode.reward is None)
        assert "retokenised" not in episode.metadata


def test_llama_cpp_with_another_model_is_refused(llama, tmp_path):
    byte_tokenizer().save_pretrained(tmp_path / "smollm2")
    tiny_llama().save_pretrained(tmp_path / "smollm2")
    with pytest.raises(InputError, match="its tokenizer is not that of --model"):
        load_engine(str(tmp_path / "smollm2"), "openai", servers=Servers((llama,)))
    with pytest.raises(InputError, match="serves 'smollm2', not 'other'"):
        load_engine(str(smollm2_folder()), "openai", servers=Servers((llama,), server_model="other"))


@pytest.mark.long
def test_transformers_serve_gives_the_responses_of_the_model_here(tmp_path):
    if not is_serve_available():
        pytest.skip("transformers serve needs pip install 'transformers[serving]'")
    tokenizer, model = byte_tokenizer(), tiny_llama(seed=3)
    folder = tmp_path / "policy"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    cache = tmp_path / "cache"  # the models that it lists are those of the hub's cache, which must be there
    cache.mkdir()
    command = [shutil.which("transformers", path=Path(sys.executable).parent), "serve", str(folder), "--device", "cpu"]
    requests = [Request(tuple(text.encode()), text) for text in ("2+3=", "hello")]
    params = SamplingParams(8, temperature=0.0)
    with started(command, HF_HUB_CACHE=str(cache)) as url:
        engine = load_engine(str(folder), "openai", tokenizer=tokenizer, servers=Servers((url,), concurrency=1))
        ours = list(engine.generate(requests, params))
        engine._connections.close()
    theirs = list(TransformersEngine(model, tokenizer).generate(requests, params))
    assert [g.ids.tolist() for g in ours] == [g.ids.tolist() for g in theirs]
    assert all(g.retokenised for g in ours)
