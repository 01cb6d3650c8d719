"""The step beam against a slow one, and its parts by hand."""

import numpy as np
import pytest
import torch

from doubles.tokenizers import byte_tokenizer
from oracles.beam import next_distribution, slow_beam
from stepcredit.engines.decoding import Continuation, ContinuationRequest, DecodingState, EndConditions
from stepcredit.engines.engine import Request, SamplingParams
from stepcredit.engines.noise import stream_key
from stepcredit.engines.stepping import CachedStepper
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.models.loading import value_model_from
from stepcredit.searching.beam import beam_search
from stepcredit.searching.scorers import FunctionScorer, ValueScorer
from stepcredit.searching.spec import SearchSpec

RULE = StepRule(("\n",), max_tokens=6)


class SmallVocabulary:
    """Words of one token; some end a line, one ends the response."""

    eos_token_id = 0
    words = ("<eos>", "a", "b", " c", "\n", "d\n")

    def decode(self, ids, **given):
        return "".join(self.words[i] for i in ids if i)


@pytest.fixture(scope="module")
def models():
    """A policy and a value model over the small vocabulary, in float64, with values that differ."""
    torch.manual_seed(3)
    tokenizer = SmallVocabulary()
    tokenizer.pad_token_id = 0
    tokenizer.bos_token_id = None
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=6, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    policy = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(0, 0.35)
    value = value_model_from(policy).double().eval()
    with torch.no_grad():
        value.score.weight.normal_(0, 1.0)
    return policy, value, tokenizer


def beam(width, continuations=None, max_new_tokens=2048, seed=0, **given):
    return SearchSpec("beam", width, SamplingParams(max_new_tokens, seed=seed), continuations, **given)


PROMPTS = [[1, 2, 3], [2], [1, 1, 5, 2, 3, 1, 2], [3, 4]]


def search(models, prompts, params, step=None, scorer=None, rule=RULE, **given):
    policy, value, tokenizer = models
    stepper = step or CachedStepper(policy, tokenizer, SamplingParams(64, **given), rule, frozenset([0]))
    asked = [Request(tuple(p), f"p{k}") for k, p in enumerate(prompts)]
    return beam_search(asked, stepper, scorer or ValueScorer(value), params)


@pytest.mark.parametrize(("width", "each"), [(1, 1), (1, 4), (2, 2), (3, 2), (4, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_the_slow_one_in_sequences_values_and_cost(models, width, each, seed):
    policy, value, tokenizer = models
    params = beam(width, each, max_new_tokens=18, seed=seed)
    found = search(models, PROMPTS, params, rule=StepRule(("\n",), max_tokens=5))
    finished = 0
    for k, (prompt, one) in enumerate(zip(PROMPTS, found)):
        slow = slow_beam(
            policy, value, tokenizer, f"p{k}", prompt, width=width, continuations=each, seed=seed, max_new_tokens=18,
            max_step_tokens=5, delimiter="\n",
        )  # fmt: skip
        assert [list(r.ids) for r in one.finished] == [ids for ids, _ in slow["pool"]]
        assert [r.value for r in one.finished] == pytest.approx([v for _, v in slow["pool"]], abs=1e-9)
        assert (None if one.chosen is None else list(one.chosen.ids)) == slow["chosen"]
        assert one.tokens_generated == slow["generated"]
        finished += len(one.finished)
    assert finished >= 3


def test_a_short_prompt_keeps_its_room_beside_a_long_one(models):
    policy, value, tokenizer = models
    params, prompts = beam(2, 2, max_new_tokens=16, seed=5), [[2], [1, 1, 5, 2, 3, 1, 2, 3, 4]]

    def found(prompts):
        stepper = CachedStepper(policy, tokenizer, SamplingParams(64), RULE, frozenset([0]))
        asked = [Request(tuple(prompt), f"p{len(prompt)}") for prompt in prompts]
        return beam_search(asked, stepper, ValueScorer(value), params, max_length=11)

    short, long = found(prompts)
    assert [r.ids for r in short.pool] == [r.ids for r in found(prompts[:1])[0].pool]
    assert max(len(r.ids) for r in short.pool) > 2 >= max(len(r.ids) for r in long.pool)
    with pytest.raises(InputError, match="prompt p11: the prompt has 11 tokens, the model reads 11; shorten it"):
        found([[1] * 11])


def test_a_problem_finds_the_same_alone_and_among_others(models):
    params = beam(3, 3, max_new_tokens=16, seed=5)
    together = search(models, PROMPTS, params)
    for k, prompt in enumerate(PROMPTS):
        policy, value, tokenizer = models
        stepper = CachedStepper(policy, tokenizer, SamplingParams(64), RULE, frozenset([0]))
        (alone,) = beam_search([Request(tuple(prompt), f"p{k}")], stepper, ValueScorer(value), params)
        assert [r.ids for r in alone.pool] == [r.ids for r in together[k].pool]
        assert (alone.tokens_generated, alone.tokens_scored) == (
            together[k].tokens_generated,
            together[k].tokens_scored,
        )


def test_every_token_is_read_once_by_policy_and_value(models, monkeypatch):
    policy, value, _ = models
    read = {"policy": 0, "value": 0}
    for name, model in (("policy", policy), ("value", value)):
        forward = model.forward

        def counted(*args, name=name, forward=forward, **given):
            ids = given["input_ids"]
            read[name] += int(given["attention_mask"][:, -ids.shape[1] :].sum())
            return forward(*args, **given)

        monkeypatch.setattr(model, "forward", counted)
    found = search(models, PROMPTS, beam(2, 3, max_new_tokens=16))
    prompts = sum(map(len, PROMPTS))
    generated = sum(f.tokens_generated for f in found)
    ended = sum(1 for f in found for node in f.nodes if node.state != "kept")
    assert read["policy"] <= prompts + generated
    assert read["policy"] >= prompts + generated - ended - sum(n.merged for f in found for n in f.nodes) - len(PROMPTS)
    assert read["value"] == sum(f.tokens_scored for f in found)


class ScriptedStepper:
    """Pieces by (row's text, number of the draw)."""

    def __init__(self, script):
        self.script, self.texts = script, []

    def start(self, prompts):
        self.texts = [""] * len(prompts)

    def draw(self, draws: list[ContinuationRequest]):
        count: dict[int, int] = {}
        self.pieces = []
        self.grown = []
        for draw in draws:
            k = count[draw.row] = count.get(draw.row, -1) + 1
            options = self.script[self.texts[draw.row]]
            text = options[k % len(options)]
            reason = {"!": StopReason.STOP, "~": StopReason.LENGTH}.get(text[-1])
            ids = tuple(map(ord, text))
            self.pieces.append(Continuation(ids, (0.0,) * len(ids), reason, text, len(ids)))
            self.grown.append(self.texts[draw.row] + text)
        return self.pieces

    def keep(self, chosen):
        self.texts = [self.grown[k] for k in chosen]


def scored(values):
    """A scorer that looks texts up; the prompt is one id."""
    return FunctionScorer(lambda rows: [values["".join(map(chr, row[1:]))] for row in rows])


def texts(responses):
    return ["".join(map(chr, r.ids)) for r in responses]


def by_hand(script, values, params, prompts=1):
    return beam_search(
        [Request((1,), f"p{k}") for k in range(prompts)], ScriptedStepper(script), scored(values), params
    )


def test_the_rounds_by_hand():
    script = {"": ["a", "b", "a", "c!"], "a": ["x", "y!"], "b": ["z!", "z!"], "ax": ["q!", "~"]}
    values = {"a": 0.5, "b": 0.6, "c!": 0.4, "ax": 0.9, "ay!": 0.3, "bz!": 0.7, "axq!": 0.8}
    (found,) = by_hand(script, values, beam(2))
    assert texts(found.finished) == ["bz!", "axq!"]
    assert "".join(map(chr, found.chosen.ids)) == "axq!"
    assert [(n.text, n.state, n.merged, n.round) for n in found.nodes] == [
        ("", "root", 0, 0), ("a", "kept", 1, 1), ("b", "kept", 0, 1), ("c!", "pruned", 0, 1),
        ("z!", "finished", 1, 2), ("x", "kept", 0, 2), ("y!", "pruned", 0, 2),
        ("q!", "finished", 0, 3), ("~", "truncated", 0, 3),
    ]  # fmt: skip
    assert found.tokens_generated == (1 + 1 + 1 + 2) + (2 + 2 + 1 + 2) + (2 + 1)


def test_a_cut_response_is_no_answer_even_if_nothing_else_is_there():
    (found,) = by_hand({"": ["~"]}, {}, beam(3))
    assert found.chosen is None
    assert found.error is None
    assert [r.stop_reason for r in found.pool] == [StopReason.LENGTH]


def test_a_value_that_is_none_ends_its_own_problem_alone():
    script = {"": ["a", "b"], "a": ["x!"], "b": ["y!"]}

    def function(rows):
        return [float("nan") if row[0] == 7 else float(len(row)) for row in rows]

    asked = [Request((1,), "p0"), Request((7,), "p1"), Request((1,), "p2")]
    found = beam_search(asked, ScriptedStepper(script), FunctionScorer(function), beam(2))
    assert [f.error for f in found] == [None, "the scorer returned NaN", None]
    assert found[1].chosen is None
    alone = beam_search(asked[:1], ScriptedStepper(script), FunctionScorer(function), beam(2))
    assert texts([found[0].chosen, found[2].chosen]) == texts([alone[0].chosen] * 2)


def test_the_vote_is_weighed_by_values():
    script = {"": ["a!", "b!", "c!"]}
    values = {"a!": 0.5, "b!": 0.4, "c!": 0.3}
    asked = [Request((1,), "p")]

    def answer_of(prompt_id, response):
        return {"a": "1", "b": "2", "c": "2"}[chr(response.ids[0])]

    (found,) = beam_search(asked, ScriptedStepper(script), scored(values), beam(3, choose="vote"), answer_of)
    assert texts([found.chosen]) == ["b!"]


@pytest.mark.parametrize("budget", [1, 5, 20, 60, 200, 500])
def test_the_budget_is_kept(models, budget):
    for found in search(models, PROMPTS, beam(3, 2, max_new_tokens=30, budget=budget)):
        prompt = found.nodes[0]
        assert prompt.state == "root"
        drawn = found.tokens_generated + found.tokens_scored
        assert drawn <= max(budget, max(map(len, PROMPTS)))


def test_a_step_ends_before_the_token_that_begins_the_next():
    tokenizer = byte_tokenizer()

    def cut(text, tail="", stop=("END",), end_ids=(257,)):
        end = EndConditions(tokenizer, stop, StepRule((". ", "\n"), max_tokens=50), frozenset(end_ids))
        drawing = DecodingState([ContinuationRequest(0, np.uint64(1), 0, 60, tail)], [ord("x")], end)
        for byte in text if isinstance(text, list) else text.encode():
            drawing.record(np.array([byte]), np.zeros(1), torch.zeros(1, 1))
            if not len(drawing.active):
                (piece,) = drawing.pieces()
                following = drawing.next[0]
                return piece.text, piece.stop_reason, following and chr(following.token), piece.drawn
        return None

    assert cut("It is 3.5 cm. Then") == ("It is 3.5 cm. ", None, "T", 15)
    assert cut("\n\n  a\n \nb") == ("\n\n  a\n \n", None, "b", 9)
    assert cut("theEND more") == ("theEND", StopReason.STOP, None, 6)
    assert cut("D more\n", tail="xxEN") == ("D", StopReason.STOP, None, 1)
    assert cut("a" * 80) == ("a" * 50, None, None, 50)
    assert cut([ord("a"), ord("\n"), 257]) == ("a\n", StopReason.STOP, None, 3)
    assert cut("a.\nEND", stop=("\nE",)) == ("a.\nE", StopReason.STOP, None, 4)
    assert cut("a.\nEND", stop=("never",)) == ("a.\n", None, "E", 4)


def test_other_continuations_begin_a_step_as_well_and_by_the_policys_own_chances(models):
    """Given that a step begins, the first token of a fresh continuation is distributed as the policy has it."""
    policy, _, tokenizer = models
    rule = StepRule(("\n",))
    stepper = CachedStepper(policy, tokenizer, SamplingParams(64), rule, frozenset([0]))
    prompt = [1, 2, 3]
    stepper.start([prompt])
    pieces = stepper.draw([ContinuationRequest(0, stream_key(0, "p", k), 0, 60) for k in range(60)])
    k = next(k for k, p in enumerate(pieces) if p.stop_reason is None and p.ids[-1] == 4)
    following = stepper._drawing.next[k].token
    stepper.keep([k])
    many = 4000
    draws = [ContinuationRequest(0, stream_key(1, "p", n), len(pieces[k].ids), 1, fresh=n > 0) for n in range(many)]
    first = [piece.ids[0] for piece in stepper.draw(draws)]
    assert first[0] == following
    chances = next_distribution(policy, [*prompt, *pieces[k].ids])
    begins = np.array([False, True, True, True, False, True])  # no end, and more than a line break
    expected = np.where(begins, chances, 0) / chances[begins].sum()
    found = np.bincount(first, minlength=6) / many
    assert not found[~begins].any()
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / many)
