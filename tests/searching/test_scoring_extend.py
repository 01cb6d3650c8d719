"""Scorings whose rows go on with observations, against a model called plainly."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from oracles.beam import value as plain
from stepcredit.models.loading import value_model_from
from stepcredit.searching.scorers import FunctionScorer, Reading, Scoring, ValueScorer

END = 11
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    made = value_model_from(LlamaForCausalLM(config))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.5)
    return made.double().eval()


def close(values, rows, model):
    assert values == pytest.approx([plain(model, row) for row in rows], abs=1e-9)


def test_a_finished_turn_is_read_to_its_end_only_when_the_conversation_goes_on(model):
    scoring, _, _ = ValueScorer(model).start(PROMPTS)
    assert isinstance(scoring, Scoring)
    first = [
        Reading(0, (1, 2, END), True),
        Reading(0, (END,), True),
        Reading(2, (3, END), True),
        Reading(1, (2,), False),
    ]
    values, read = scoring.score(first)
    close(values, [[*PROMPTS[0], 1, 2], PROMPTS[0], [*PROMPTS[2], 3], [*PROMPTS[1], 2]], model)
    assert read == [2, 0, 1, 1]
    scoring.keep([2, 1, 3, 0])
    assert scoring.extend([[7, 8, 9], [], [], [6]]) == [4, 1, 0, 2]
    rows = [[*PROMPTS[2], 3, END, 7, 8, 9], [*PROMPTS[0], END], [*PROMPTS[1], 2], [*PROMPTS[0], 1, 2, END, 6]]
    second = [Reading(row, ids, True) for row in (3, 0, 1, 2) for ids in ((END,), (4, END), (5, 5, END))]
    values, read = scoring.score(second)
    close(values, [rows[r.row] + list(r.ids[:-1]) for r in second], model)
    assert read == [0, 1, 2] * 4
    scoring.keep([4, 2])
    assert scoring.extend([[1, 1], [2]]) == [3, 2]
    values, _ = scoring.score([Reading(0, (3,), False), Reading(1, (END,), True)])
    close(values, [[*rows[0], 4, END, 1, 1, 3], [*rows[3], 5, 5, END, 2]], model)


def test_rows_can_be_extended_before_anything_was_scored_and_more_than_once(model):
    scoring, _, _ = ValueScorer(model).start(PROMPTS)
    assert scoring.extend([[], [], []]) == [0, 0, 0]
    assert scoring.extend([[1], [], [2, 3]]) == [1, 0, 2]
    assert scoring.extend([[], [4], [5]]) == [0, 1, 1]
    values, _ = scoring.score([Reading(row, (END,), True) for row in range(3)])
    close(values, [[*PROMPTS[0], 1], [*PROMPTS[1], 4], [*PROMPTS[2], 2, 3, 5]], model)


def test_what_is_read_is_what_is_counted(model, monkeypatch):
    scoring, _, _ = ValueScorer(model).start(PROMPTS)
    scoring.score([Reading(0, (1, 2, END), True), Reading(1, (3, END), True)])
    scoring.keep([1, 0])
    passes, forward = [], model.forward

    def counting(*args, **given):
        passes.append(int(given["attention_mask"][:, -given["input_ids"].shape[1] :].sum()))
        return forward(*args, **given)

    monkeypatch.setattr(model, "forward", counting)
    read = scoring.extend([[5], [6, 7, 8]])
    several = [Reading(row, (k, END), True) for row in (0, 1) for k in range(5)]
    _, scored = scoring.score(several)
    assert passes == [sum(read), sum(scored)] == [2 + 4, 10]


def test_a_finished_row_goes_on_with_extend_alone(model):
    scoring, _, _ = ValueScorer(model).start(PROMPTS)
    scoring.score([Reading(0, (1, END), True)])
    scoring.keep([0])
    with pytest.raises(AssertionError, match="must be continued with"):
        scoring.score([Reading(0, (2,), False)])


def test_a_function_sees_replies_with_their_ends_and_observations():
    seen = []
    scoring, _, _ = FunctionScorer(lambda rows: seen.append(rows) or [0.0] * len(rows)).start(PROMPTS)
    scoring.score([Reading(2, (1, END), True), Reading(0, (2, END), True)])
    scoring.keep([1, 0])
    assert scoring.extend([[7], []]) == [0, 0]
    _, read = scoring.score([Reading(0, (END,), True), Reading(1, (END,), True)])
    assert seen[-1] == [[*PROMPTS[0], 2, END, 7, END], [*PROMPTS[2], 1, END, END]]
    assert read == [7, 8]
