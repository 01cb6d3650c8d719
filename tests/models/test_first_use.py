"""What is proved and chosen on the first micro-batch, and said."""

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from doubles.models import tiny_llama
from stepcredit.episodes.alignment import Trajectory
from stepcredit.episodes.prefixes import collate_shared
from stepcredit.errors import InputError
from stepcredit.models import first_use
from stepcredit.models.actor_critic import ActorCritic
from stepcredit.models.bodies import packing
from stepcredit.models.bodies.passes import hidden_states, run, sequences, shares_prefixes, split
from stepcredit.models.first_use import settle
from stepcredit.models.heads.value_heads import TrunkValue

PLAIN = {"needs_reference": False, "needs_kl": False}


def trajectory(prompt, response):
    import numpy as np

    ids = np.array([*prompt, *response], dtype=np.int32)
    mask = np.arange(len(ids)) >= len(prompt)
    return Trajectory(ids, mask, np.where(mask, 0, -1).astype(np.int64), np.zeros(len(ids), np.float32), None, False)


def batch():
    return collate_shared(
        [trajectory(range(5, 12), [3, 4, 5]), trajectory(range(5, 12), [9]), trajectory([1, 2], [7, 7, 8, 9, 1])], 0
    )


def gemma(window=4):
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=window, layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0, eos_token_id=1, bos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)


def test_a_linear_head_and_shared_prompts_are_settled_in_a_line():
    models = ActorCritic(tiny_llama())
    assert settle(models, batch(), "auto", PLAIN) == ["prompts: read once per micro-batch"]
    assert (models.linear, models.way, models.fused) == (True, "shared", False)
    settle(models, batch(), "fused", PLAIN)
    assert models.fused


def test_a_model_with_sliding_windows_reads_each_prompt_with_its_response():
    model = gemma().double()
    assert not shares_prefixes(model.model)
    rows = batch()
    found = hidden_states(model.model, sequences(rows))
    whole = model.model(torch.tensor([[*range(5, 12), 3, 4, 5]])).last_hidden_state
    torch.testing.assert_close(found[0, :4], whole[0, -4:])
    assert run(model.model, sequences(rows))[0] is None
    models = ActorCritic(model)
    (note,) = settle(models, rows, "naive", PLAIN)
    assert note.endswith("Gemma3TextModel does not keep the keys and values of all tokens")
    assert models.way == "whole"


class Scaled(torch.nn.Module):
    """A head that is no linear map of known form."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.linear = linear.weight, linear

    def forward(self, x):
        return self.linear(x).sin()


def test_an_unknown_head_is_asked_for_its_logits_and_refused_where_weights_are_needed():
    model = tiny_llama(tied=False)
    model.lm_head = Scaled(model.lm_head)
    models = ActorCritic(model)
    (note, *_) = settle(models, batch(), "auto", PLAIN)
    assert "not a known linear map" in note
    rows = batch()
    found = models(rows).statistics.log_prob[0, :3]
    logits = model(torch.tensor([[*range(5, 12), 3, 4, 5]])).logits[0, 6:9].log_softmax(-1)
    torch.testing.assert_close(found, logits[range(3), [3, 4, 5]])
    with pytest.raises(InputError, match="LlamaForCausalLM are not a known linear map"):
        settle(models, rows, "fused", PLAIN)
    with pytest.raises(InputError, match="shared_trunk"):
        settle(ActorCritic(model, TrunkValue(tiny_llama())), rows, "auto", PLAIN)


def test_a_pass_that_differs_from_the_plain_one_falls_back(monkeypatch):
    plain = first_use.hidden_states
    monkeypatch.setattr(
        first_use, "hidden_states", lambda body, inputs, way="shared": plain(body, inputs, way) + (way == "shared")
    )
    models = ActorCritic(tiny_llama())
    (note,) = settle(models, batch(), "naive", PLAIN)
    assert note.startswith("prompts: read with each response, because LlamaModel differs by")
    assert models.way == "whole"


def test_a_lost_gradient_falls_back_too(monkeypatch):
    plain = first_use.hidden_states

    def cut(body, inputs, way="shared"):
        states = plain(body, inputs, way)
        return states.detach() + 0.5 * (states - states.detach()) if way == "shared" else states

    monkeypatch.setattr(first_use, "hidden_states", cut)
    models = ActorCritic(tiny_llama())
    settle(models, batch(), "naive", PLAIN)
    assert models.way == "whole"


@pytest.mark.parametrize("needs_reference", [False, True])
def test_the_faster_head_that_fits_is_taken(monkeypatch, needs_reference):
    monkeypatch.setattr(first_use, "_SMALL", 10)
    needs = {"needs_reference": needs_reference, "needs_kl": needs_reference}
    seconds = iter([1.0, 2.0, 2.0, 1.0])
    monkeypatch.setattr(first_use, "_seconds", lambda loss, trained, clock: (loss(), next(seconds))[1])
    models = ActorCritic(tiny_llama())
    assert settle(models, batch(), "auto", needs)[-1] == "head: fused, 1 s for 9 actions; naive 2 s"
    assert models.fused
    settle(models, batch(), "auto", needs)
    assert not models.fused
    monkeypatch.setattr(first_use, "_free_memory", lambda device: 1000)
    assert "do not fit several times" in settle(models, batch(), "auto", needs)[-1]
    assert models.fused


def test_a_first_pass_without_gradients_can_settle_too(monkeypatch):
    monkeypatch.setattr(first_use, "_SMALL", 10)
    with torch.no_grad():  # as the statistics of KTO's first step
        notes = settle(ActorCritic(tiny_llama()), batch(), "auto", PLAIN)
    assert notes[-1].startswith("head: ")


def looped(q, k, v, start_q, start_k, most_q, most_k, *, window_size, scale):
    """`varlen_attn` by its description: causal attention of each sequence, aligned at its end."""
    assert window_size == (-1, 0)
    pieces = []
    for a, b, c, d in zip(start_q, start_q[1:], start_k, start_k[1:]):
        assert b - a <= most_q
        assert d - c <= most_k
        scores = torch.einsum("qhd,khd->hqk", q[a:b], k[c:d]) * scale
        behind = torch.ones(b - a, d - c, dtype=torch.bool).tril((d - c) - (b - a))
        pieces.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~behind, -torch.inf).softmax(-1), v[c:d]))
    return torch.cat(pieces)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """The packed pass on a CPU, with its attention by hand."""
    monkeypatch.setattr(packing, "varlen_attn", looped)
    monkeypatch.setattr(first_use, "can_pack", lambda body, device: True)


@pytest.mark.parametrize("shares", [True, False])
def test_packed_rows_give_the_plain_states_and_gradients(on_a_gpu, shares):
    model = tiny_llama(layers=3, kv_heads=1).double()
    rows = batch()
    if not shares:
        del rows["prefix"]
    models = ActorCritic(model)
    (note,) = settle(models, rows, "naive", PLAIN)
    assert note == "rows: packed without padding" + ", prompts read once per micro-batch" * shares
    there = rows["attention_mask"].bool()
    results = []
    for body in (model.model, split(model.model, 2)[1]):
        for way in ("packed", "shared"):
            states = sequences(rows)
            if body is not model.model:
                prefix, tokens = run(split(model.model, 2)[0], states, way)
                states = states._replace(tokens=tokens, prefix=prefix)
            found = hidden_states(body, states, way)[there]
            gradient = torch.autograd.grad(found.sin().sum(), model.model.layers[-1].mlp.up_proj.weight)[0]
            results.append((found, gradient))
    for found, gradient in results[1:]:
        torch.testing.assert_close(found, results[0][0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-5, atol=1e-7)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_does_not_pass_the_layout_on_is_padded(on_a_gpu, monkeypatch):
    models = ActorCritic(tiny_llama())
    monkeypatch.setattr(packing, "varlen_attn", lambda q, *given, **more: q * 2)
    first, second = settle(models, batch(), "naive", PLAIN)
    assert first.startswith("rows: padded, because LlamaModel differs by")
    assert second == "prompts: read once per micro-batch"
    monkeypatch.setattr(packing, "varlen_attn", None)
    assert "LlamaModel fails otherwise" in settle(models, batch(), "naive", PLAIN)[0]
