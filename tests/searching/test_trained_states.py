"""Every state whose V a search reads is one that training trains, on real tokenizers, and V is the same there."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from doubles.real import real_tokenizer
from stepcredit.engines.decoding import ContinuationRequest, DecodingState, EndConditions
from stepcredit.engines.engine import Request, SamplingParams
from stepcredit.engines.stepping import CachedStepper
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.alignment import TokenTexts, align, segments
from stepcredit.episodes.encoding import prompt_ids, response_text
from stepcredit.episodes.episode import Episode, StopReason, Tokens
from stepcredit.episodes.steps import StepRule, steps_of_tokens
from stepcredit.models.chat_templates import with_chat_template
from stepcredit.models.loading import value_model_from
from stepcredit.models.scoring import values_of
from stepcredit.rollouts.converse import converse
from stepcredit.searching.beam import beam_search
from stepcredit.searching.scorers import Reading, ValueScorer
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.environment import Observation
from stepcredit.tasks.math import MATH
from stepcredit.tasks.task import Problem

NAMES = ("smollm2", "qwen3", "gemma3")
RULES = {
    "lines": StepRule(("\n",), 5),
    "math": StepRule(MATH.step_delimiters, 5),
    "short": StepRule(("\n", ". "), 2),
}
STOP = ("Question:", "\n\n\n")
PIECES = [
    "\n",
    "\n\n",
    "\n\n\n",
    ".",
    ". Then",
    " So",
    " x",
    "5",
    "3.5",
    " $",
    ".$",
    ".$ Now",
    "  ",
    "    y",
    "\t",
    "Question:",
]
LEVELS = ("token", "step")


class Babbler(LlamaForCausalLM):
    """A language model that draws from some tokens of a real vocabulary alone."""

    def forward(self, *args, **given):
        output = super().forward(*args, **given)
        output.logits = output.logits + self.only
        return output


@cache
def tokenizer_of(name):
    return with_chat_template(real_tokenizer(name))


@cache
def tokens_of(name):
    tokenizer = tokenizer_of(name)
    return sorted({i for text in PIECES for i in tokenizer(text, add_special_tokens=False)["input_ids"]})


@cache
def models_of(name):
    tokenizer = tokenizer_of(name)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    policy = Babbler(config).eval()
    with torch.no_grad():
        policy.model.embed_tokens.weight.mul_(20)
        policy.only = torch.full((len(tokenizer),), -torch.inf)
        policy.only[tokens_of(name)] = 0
    engine = TransformersEngine(policy, tokenizer, batch_size=32)
    with torch.no_grad():
        policy.only[list(engine.ends.stop)] = 1.0
    value = value_model_from(policy).eval()
    with torch.no_grad():
        value.score.weight.normal_(0, 1)
    return policy, value, engine


def trained(trajectory, level):
    """The positions whose states V is trained at: where a segment begins."""
    mask, step = torch.from_numpy(trajectory.action_mask)[None], torch.from_numpy(trajectory.step_id)[None]
    segment = segments(level, mask, step)[0].numpy()
    return {p for p in np.flatnonzero(segment >= 0).tolist() if segment[p] not in segment[:p]}


def trajectory_of(name, prompt, ids, rule, stop_reason=StopReason.STOP):
    _, _, engine = models_of(name)
    tokens = Tokens(
        np.array([*prompt, *ids], dtype=np.int32), np.array([False] * len(prompt) + [True] * len(ids), dtype=np.bool_)
    )
    text = response_text(list(ids), engine.tokenizer, engine.ends)
    episode = Episode(
        prompt="p", completion=text, reward=1.0, prompt_id="p", tokens=tokens, stop_reason=stop_reason
    )  # fmt: skip
    return align(episode, engine.tokenizer, rule, ends=engine.ends)


def check(name, trajectory, read):
    """(position, V) pairs that a search read: all trained, and equal to what training reads."""
    _, value, _ = models_of(name)
    (expected,) = values_of(value, [trajectory])
    for position, number in read:
        assert number == pytest.approx(float(expected[position]), abs=1e-5)


class Recording(CachedStepper):
    """Remembers the pieces."""

    def draw(self, draws):
        drawn = super().draw(draws)
        self.pieces = [*getattr(self, "pieces", []), *drawn]
        return drawn


@pytest.mark.parametrize("name", NAMES)
def test_the_states_of_a_beam(name):
    ends = [beam_states(name, rule) for rule in RULES.values()]
    assert len({kind for one in ends for kind in one}) == 4, ends


def beam_states(name, rule):
    """Checks the states of a beam with a rule; how the pieces that it drew have ended."""
    policy, value, engine = models_of(name)
    prompts = [
        Request(tuple(prompt_ids(text, engine.tokenizer)), f"p{k}") for k, text in enumerate(["Go:", "One. Two"])
    ]
    stepper = Recording(policy, engine.tokenizer, SamplingParams(60, stop=STOP), rule, engine.ends.stop)
    spec = SearchSpec("beam", 3, SamplingParams(32, seed=2))
    found = beam_search(prompts, stepper, ValueScorer(value), spec)
    states = 0
    for asked, one in zip(prompts, found):
        nodes = {node.id: node for node in one.nodes}
        for response in one.finished:
            trajectory = trajectory_of(name, asked.prompt_ids, response.ids, rule)
            read, node = [], nodes[response.node]
            at = len(asked.prompt_ids) + len(response.ids)
            while node.parent is not None:
                read.append((at - 1 if node.state == "finished" else at, node.value))
                at, node = at - node.tokens, nodes[node.parent]
            assert at == len(asked.prompt_ids)
            assert all({position for position, _ in read} <= trained(trajectory, level) for level in LEVELS)
            check(name, trajectory, read)
            states += len(read)
    assert states > 5
    for piece in stepper.pieces:  # also those that were not kept: where each ends, the next step begins
        if piece.stop_reason is None:
            after = tokens_of(name)[0] if piece.following is None else piece.following
            row = trajectory_of(name, (1,), [*piece.ids, after], rule, StopReason.LENGTH)
            assert 1 + len(piece.ids) in trained(row, "step")
    return {
        "next" if piece.following is not None else piece.stop_reason and piece.ids[-1] in engine.ends.stop
        for piece in stepper.pieces
        if piece.stop_reason is not StopReason.LENGTH
    }


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NAMES)
def test_the_states_of_best_of_k(name, rule):
    _, value, engine = models_of(name)
    prompt = prompt_ids("Go:", engine.tokenizer)
    drawn = list(
        engine.generate([Request(tuple(prompt), "p", k) for k in range(16)], SamplingParams(40, stop=STOP, seed=3))
    )
    finished = [g.ids.tolist() for g in drawn if g.stop_reason is StopReason.STOP]
    assert any(ids[-1] not in engine.ends.stop for ids in finished)
    assert any(ids[-1] in engine.ends.stop for ids in finished)
    scoring, *_ = ValueScorer(value).start([prompt])
    values, _ = scoring.score([Reading(0, tuple(ids), True) for ids in finished])
    for ids, one in zip(finished, values.tolist()):
        trajectory = trajectory_of(name, prompt, ids, RULES[rule])
        position = len(prompt) + len(ids) - 1
        assert all(position in trained(trajectory, level) for level in LEVELS)
        check(name, trajectory, [(position, one)])


class Echo:
    """Answers with lines, three times."""

    def reset(self, problems):
        self.turns = dict.fromkeys(problems, 0)
        return {number: Observation("Begin.\n\n  Now") for number in problems}

    def step(self, replies):
        for number in replies:
            self.turns[number] += 1
        return {n: Observation("Seen. 3.5\n", 0.0, self.turns[n] == 3) for n in replies}


@pytest.mark.parametrize("name", NAMES)
def test_the_states_of_conversations(name):
    _, value, engine = models_of(name)
    samples = [(Problem(f"p{k}", [], "answer"), 0) for k in range(3)]
    spec = SearchSpec("best-of", 3, SamplingParams(40, stop=("Question:",), seed=1))
    states = 0
    for one in converse(samples, engine, Echo(), spec, 4, ValueScorer(value)):
        assert one.error is None
        episode = one.episode()
        episode = Episode(**{**vars(episode), "reward": 0.0, "verdict": None, "step_rewards": None})
        for rule in (StepRule(()), RULES["math"]):
            trajectory = align(episode, engine.tokenizer, rule, ends=engine.ends)
            mask = trajectory.action_mask
            last = np.flatnonzero(mask & ~np.append(mask[1:], False)).tolist()[: len(one.values)]
            assert all(set(last) <= trained(trajectory, level) for level in LEVELS)
            check(name, trajectory, list(zip(last, one.values)))
        states += len(one.values)
    assert states >= 6


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(data=st.data())
def test_pieces_drawn_one_by_one_are_the_steps_of_the_whole(name, data):
    """Any tokens, cut into pieces as a search draws them, are cut as training cuts the response that they make."""
    tokens = tokens_of(name)
    ids = data.draw(st.lists(st.sampled_from(tokens), min_size=1, max_size=40))
    rule = RULES[data.draw(st.sampled_from(sorted(RULES)))]
    tokenizer = tokenizer_of(name)
    end = EndConditions(tokenizer, (), rule, frozenset())
    found, rest, before = [], list(ids), tokens[0]
    while rest:
        drawing = DecodingState([ContinuationRequest(0, np.uint64(1), 0, 100)], [before], end)
        for token in rest:
            drawing.record(np.array([token]), np.zeros(1), torch.zeros(1, 1))
            if not len(drawing.active):
                break
        found.append(int(drawing.length[0]))
        before, rest = int(drawing.last[0]), rest[found[-1] :]
    steps = steps_of_tokens(TokenTexts(tokenizer)(ids), rule)
    assert found == np.bincount(steps).tolist()
