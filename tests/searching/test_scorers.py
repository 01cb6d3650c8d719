"""Where scorers read, against models called plainly."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
)

from stepcredit.engines.kv_cache import CachedSequences
from stepcredit.errors import InputError
from stepcredit.models.loading import value_model_from
from stepcredit.searching.scorers import Reading, ValueScorer, reward_model_scorer

SMALL = {
    "vocab_size": 12, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
RESPONSES = [[[2, 3, 11], [11]], [], [[4, 4, 4, 4, 11]]]


def randomised(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    return model.double().eval()


@pytest.fixture(scope="module")
def value():
    model = value_model_from(randomised(LlamaForCausalLM(LlamaConfig(**SMALL))))
    model.score.weight.data.normal_(0, 1.0)
    return model.double().eval()


def plain(model, ids):
    with torch.inference_mode():
        return float(model(input_ids=torch.tensor([ids])).logits[0, -1, 0])


def scored_responses(scorer):
    """(tokens read of the prompt, [(score, tokens read)] of its finished responses) for each prompt."""
    scoring, _, of_prompts = scorer.start(PROMPTS)
    readings = [Reading(row, tuple(ids), True) for row, several in enumerate(RESPONSES) for ids in several]
    values, read = scoring.score(readings)
    found = [(tokens, []) for tokens in of_prompts]
    for reading, value, tokens in zip(readings, values, read, strict=True):
        found[reading.row][1].append((value, tokens))
    return found


def test_a_finished_response_is_read_before_its_end_token(value):
    found = scored_responses(ValueScorer(value))
    assert [tokens for tokens, _ in found] == [3, 1, 5]
    for prompt, responses, (_, scored) in zip(PROMPTS, RESPONSES, found):
        expected = [plain(value, prompt + response[:-1]) for response in responses]
        assert [value for value, _ in scored] == pytest.approx(expected, abs=1e-9)
        assert [tokens for _, tokens in scored] == [len(response) - 1 for response in responses]


def test_rows_kept_in_another_order_go_on_from_where_they_were(value):
    scoring, values, read = ValueScorer(value).start(PROMPTS)
    assert values == pytest.approx([plain(value, p) for p in PROMPTS], abs=1e-9)
    assert read == [3, 1, 5]
    first = [Reading(2, (1, 2), False), Reading(0, (3,), False), Reading(0, (7, 7, 7), False), Reading(1, (11,), True)]
    scoring.score(first)
    scoring.keep([2, 0])
    second, read = scoring.score([Reading(1, (9, 11), True), Reading(0, (8,), False), Reading(1, (11,), True)])
    kept = [PROMPTS[0] + [7, 7, 7], PROMPTS[2] + [1, 2]]
    assert second == pytest.approx(
        [plain(value, kept[1] + [9]), plain(value, kept[0] + [8]), plain(value, kept[1])], abs=1e-9
    )
    assert read == [1, 1, 0]


def test_a_reward_model_reads_whole_rows():
    model = randomised(LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=1, pad_token_id=0)))
    found = scored_responses(reward_model_scorer(model, batch_size=2))
    assert [tokens for tokens, _ in found] == [0, 0, 0]
    for prompt, responses, (_, scored) in zip(PROMPTS, RESPONSES, found):
        with torch.inference_mode():
            expected = [float(model(input_ids=torch.tensor([prompt + r])).logits[0, 0]) for r in responses]
        assert [value for value, _ in scored] == pytest.approx(expected, abs=1e-9)
        assert [tokens for _, tokens in scored] == [len(prompt) + len(r) for r in responses]


def test_a_reward_model_without_a_pad_token_reads_batches():
    model = randomised(LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=1, pad_token_id=None)))
    (_, scored), *_ = scored_responses(reward_model_scorer(model))
    assert len(scored) == 2


def test_a_model_whose_cache_forgets_is_refused():
    model = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4))
    with pytest.raises(InputError, match="keeps no plain key-value cache"):
        CachedSequences.empty(model, 1)
    small = GPT2LMHeadModel(GPT2Config(vocab_size=12, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    assert len(CachedSequences.empty(small, 3)) == 3
