"""Rows that go on with ids that nobody drew: the stepper against a model called plainly, in float64."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from oracles.beam import next_distribution
from stepcredit.engines.decoding import ContinuationRequest
from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.kv_cache import CachedSequences, padded_left
from stepcredit.engines.noise import stream_key, uniform
from stepcredit.engines.stepping import CachedStepper, Stepper, TurnStepper
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import StepRule

END = 0
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1, 2], [3, 3]]


class Letters:
    """Id k is a letter; some are line breaks, which end no turn."""

    eos_token_id = END

    def decode(self, ids, **given):
        return "".join("\n" if i % 5 == 4 else chr(ord("a") + i) for i in ids if i != END)


def llama():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=128,
        )
    )  # fmt: skip


def gpt2():
    """Its positions are embedded, not rotated: an offset shows."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=12, n_embd=16, n_layer=2, n_head=2, n_positions=128))


@pytest.fixture(scope="module", params=[llama, gpt2])
def model(request):
    torch.manual_seed(1)
    made = request.param().double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.4)
    return made


def stepper_of(model):
    return CachedStepper(model, Letters(), SamplingParams(64), StepRule(()), frozenset([END]))


def draw_of(row, key, written, left=12):
    return ContinuationRequest(row, stream_key(0, "p", key), written, left)


def slowly(model, before, draw):
    """The ids of a draw, each from a fresh reading of all before it."""
    ids: list[int] = []
    while not ids or (ids[-1] != END and len(ids) < draw.left):
        cumulative = next_distribution(model, before + ids).cumsum()
        noise = uniform(np.array([draw.key]), draw.written + len(ids))[0]
        ids.append(int(np.searchsorted(cumulative, noise * cumulative[-1], side="right")))
    return ids


def counted(model, monkeypatch):
    """(unmasked tokens, forward passes) of the model from now on."""
    read, forward = {"tokens": 0, "passes": 0}, model.forward

    def counting(*args, **given):
        width = given["input_ids"].shape[1]
        read["tokens"] += int(given["attention_mask"][:, -width:].sum())
        read["passes"] += 1
        return forward(*args, **given)

    monkeypatch.setattr(model, "forward", counting)
    return read


def test_what_can_be_extended():
    assert isinstance(stepper_of(llama()), TurnStepper)
    assert issubclass(TurnStepper, Stepper)


@pytest.mark.parametrize("seed", range(4))
def test_turns_and_observations_read_as_one_row(model, seed):
    """Random observations, also empty ones, after `start` and after every `keep`; rows leave, swap and split."""
    rng = np.random.default_rng(seed)
    stepper, rows = stepper_of(model), [list(p) for p in PROMPTS]
    stepper.start(rows)
    for turn in range(4):
        more = [rng.integers(1, 12, rng.integers(0, 6)).tolist() for _ in rows]
        stepper.extend(more)
        rows = [row + ids for row, ids in zip(rows, more)]
        draws = [draw_of(row, 10 * row + k, 20 * turn) for row in range(len(rows)) for k in range(2)]
        pieces = stepper.draw(draws)
        assert [list(p.ids) for p in pieces] == [slowly(model, rows[d.row], d) for d in draws]
        for piece in pieces:
            ended = piece.ids[-1] == END
            assert piece.stop_reason is (StopReason.STOP if ended else StopReason.LENGTH)
            assert ended or len(piece.ids) == 12
        chosen = rng.permutation(len(draws))[: max(1, len(rows) - (turn == 1))].tolist()
        rows = [rows[draws[k].row] + list(pieces[k].ids) for k in chosen]
        stepper.keep(chosen)


def test_several_extensions_are_one(model):
    stepper = stepper_of(model)
    stepper.start(PROMPTS)
    for more in ([[1], [], [2, 3], []], [[], [], [4], [5]], [[]] * 4):
        stepper.extend(more)
    draws = [draw_of(row, row, 0) for row in range(4)]
    rows = [[*PROMPTS[0], 1], PROMPTS[1], [*PROMPTS[2], 2, 3, 4], [*PROMPTS[3], 5]]
    assert [list(p.ids) for p in stepper.draw(draws)] == [slowly(model, row, d) for row, d in zip(rows, draws)]


def test_the_rows_stay_where_an_extension_follows_a_draw_that_nothing_was_kept_of(model):
    stepper = stepper_of(model)
    stepper.start(PROMPTS)
    stepper.extend([[5], [], [], []])
    stepper.draw([draw_of(0, 0, 0), draw_of(1, 1, 0)])
    stepper.extend([[], [7, 7], [], [2]])
    draws = [draw_of(row, row, 3) for row in range(4)]
    rows = [[*PROMPTS[0], 5], [*PROMPTS[1], 7, 7], PROMPTS[2], [*PROMPTS[3], 2]]
    assert [list(p.ids) for p in stepper.draw(draws)] == [slowly(model, row, d) for row, d in zip(rows, draws)]


def test_an_observation_is_read_once_in_one_pass_with_the_token_before_it(model, monkeypatch):
    stepper = stepper_of(model)
    stepper.start(PROMPTS)
    pieces = stepper.draw([draw_of(row, row, 0) for row in (0, 0, 1, 2, 3)])
    stepper.keep([1, 4, 2])
    stepper.extend([[5, 6, 7], [], [8]])
    read = counted(model, monkeypatch)
    stepper.draw([draw_of(row, 100, 50, left=1) for row in (0, 1, 2)])
    assert read == {"tokens": 3 + 3 + 0 + 1, "passes": 1}
    assert len(pieces) == 5


def test_the_text_of_the_first_token_reads_on_from_the_observation(model):
    stepper = stepper_of(model)
    stepper.start(PROMPTS)
    stepper.extend([[9], [], [2, 1], []])
    assert stepper.last == [9, 4, 1, 3]
    stepper.draw([draw_of(row, row, 0) for row in range(4)])
    stepper.keep([2, 0])
    stepper.extend([[], [6, 5]])
    assert stepper.last[1] == 5
    with pytest.raises(ValueError, match="zip"):
        stepper.extend([[1]])


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [3, 1], [2, 2, 0, 1]])
@torch.inference_mode()
def test_reading_on_in_selected_rows_leaves_the_others_as_they_are(model, index):
    """Also where all rows keep their places, and nothing is copied."""
    rows = CachedSequences.empty(model, len(PROMPTS))
    rows.read(*padded_left(PROMPTS, model.device))
    chosen = rows.selected(torch.tensor(index))
    on = torch.full((len(index), 1), 7)
    first = chosen.read(on, torch.ones_like(on)).logits[:, -1]
    assert rows.mask.shape[1] == max(map(len, PROMPTS))
    again = rows.selected(torch.tensor(index)).read(on, torch.ones_like(on)).logits[:, -1]
    assert torch.equal(first, again)
    for row, k in enumerate(index):
        plain = model(torch.tensor([[*PROMPTS[k], 7]])).logits[0, -1]
        torch.testing.assert_close(first[row], plain, rtol=0, atol=1e-10)
