"""Conversations with an environment against slow ones, and their ends by hand."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from doubles.words import DOOR, END, EOS, GO, LEFT, RIGHT, WALL, word_tokenizer
from oracles.conversations import slow_conversation
from stepcredit.engines.decoding import Continuation
from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.noise import stream_key
from stepcredit.engines.stepping import CachedStepper
from stepcredit.episodes.alignment import action_runs, align
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.turns import turn_ends
from stepcredit.errors import InputError
from stepcredit.models.loading import value_model_from
from stepcredit.rollouts.converse import Rollout, converse
from stepcredit.searching.scorers import FunctionScorer, ValueScorer
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.environment import Crash, Environment, Observation
from stepcredit.tasks.task import Problem
from stepcredit.verdict import Verdict

TOKENIZER = word_tokenizer()
SYSTEM = {"role": "system", "content": "go!"}


class Corridor:
    """Answers with what it was told, and more words each time; the third left, or any door, is its end."""

    def reset(self, problem):
        self.kind, self.lefts, self.turns = problem.metadata["kind"], 0, 0
        if self.kind == "stillborn":
            raise RuntimeError("no corridor")
        return Observation("wall" + " left" * problem.metadata.get("size", 1))

    def step(self, reply):
        self.turns += 1
        self.lefts += reply.count("left")
        if self.kind == "crashing" and self.turns == 2:
            raise RuntimeError("the corridor fell in")
        done = self.lefts >= 3 or "door" in reply
        return Observation("wall" + "!" * self.turns + "go" * ("go" in reply), float(done and self.lefts > 0), done)

    def close(self):
        pass


class Corridors:
    """Corridors beside each other; every call is remembered."""

    def __init__(self, make=Corridor):
        self.make, self.open, self.calls = make, {}, []

    def reset(self, problems):
        self.open = {number: self.make() for number in problems}
        return {number: self._safely(self.open[number].reset, problem) for number, problem in problems.items()}

    def step(self, replies):
        self.calls.append(dict(replies))
        return {number: self._safely(self.open[number].step, reply) for number, reply in replies.items()}

    def _safely(self, call, given):
        try:
            return call(given)
        except RuntimeError as error:
            return Crash(str(error))


def problem(name, kind="plain", size=1):
    return Problem(name, [SYSTEM], "door", metadata={"kind": kind, "size": size})


SAMPLES = [
    (problem("a"), 0),
    (problem("a"), 1),
    (problem("b", size=6), 3),
    (problem("c", "crashing"), 0),
    (problem("d", size=3), 0),
    (problem("e", "stillborn"), 0),
    (problem("f", "crashing", 2), 2),
    (problem("a"), 2),
]


@pytest.fixture(scope="module")
def models():
    """A policy and a value model over the words, in float64."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256,
    )  # fmt: skip
    policy = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(0, 0.35)
    value = value_model_from(policy).double().eval()
    with torch.no_grad():
        value.score.weight.normal_(0, 1.0)
    return policy, value


class OneStepper:
    """An engine with the stepper that it is given."""

    batch_size = 64
    tokenizer = TOKENIZER
    ends = turn_ends(TOKENIZER)

    def __init__(self, stepper, max_length=None):
        self.one, self.max_length = stepper, max_length

    def generate(self, requests, params):
        raise NotImplementedError

    def stepper(self, params, rule):
        assert rule == StepRule(())
        return self.one


def stepper_of(policy):
    return CachedStepper(policy, TOKENIZER, SamplingParams(64), StepRule(()), frozenset([END, EOS]))


def limits(search="best-of", replies=1, max_turns=4, max_new_tokens=8, max_length=None, seed=0):
    """(search, turn limit, length limit) with defaults."""
    return SearchSpec(search, replies, SamplingParams(max_new_tokens, seed=seed)), max_turns, max_length


def rolled_out(models, samples, environments=None, **given):
    policy, value = models
    spec, max_turns, max_length = limits(**given)
    engine = OneStepper(stepper_of(policy), max_length)
    return converse(samples, engine, environments or Corridors(), spec, max_turns, ValueScorer(value))


def same(one, other):
    """Whether two conversations came to the same."""
    for name in ("rewards", "stop_reason", "error", "tokens_generated", "tokens_scored"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.values == pytest.approx(other.values, abs=1e-9)
    assert (one.conversation is None) == (other.conversation is None)
    if one.conversation is not None:
        assert one.conversation.messages == other.conversation.messages
        assert one.conversation.ids == other.conversation.ids


SETTINGS = [
    {"replies": 1},
    {"replies": 3},
    {"replies": 3, "search": "random"},
    {"replies": 1, "search": "random"},
    {"replies": 4, "max_new_tokens": 4, "max_turns": 3},
    {"replies": 2, "max_length": 45},
]


@pytest.mark.parametrize("given", SETTINGS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_to_the_slow_ones(models, given, seed):
    policy, value = models
    given = {"max_turns": 4, "max_new_tokens": 8, **given, "seed": seed}
    ends = set()
    for (problem, sample), found in zip(SAMPLES, rolled_out(models, SAMPLES, **given)):
        assert (found.problem, found.sample) == (problem, sample)
        if problem.metadata["kind"] == "stillborn":
            continue
        slow = slow_conversation(
            policy, value, TOKENIZER, problem, sample, Corridor(), end=END, end_ids={END, EOS}, **given
        )
        conversation = found.conversation
        assert conversation.ids == slow["ids"]
        tokens = conversation.tokens()
        assert tokens.action_mask.tolist() == slow["mask"]
        assert tokens.behavior_log_prob == pytest.approx(np.array(slow["log_prob"]), abs=1e-6)
        said = [m["content"] for m in conversation.completion if m["role"] == "assistant"]
        assert said[: len(slow["replies"])] == slow["replies"]
        assert (found.rewards, found.error, str(found.stop_reason)) == (slow["rewards"], slow["error"], slow["stop"])
        assert found.values == pytest.approx(slow["values"], abs=1e-9)
        assert (found.tokens_generated, found.tokens_scored) == (slow["generated"], slow["scored"])
        ends.add((found.error is None, found.stop_reason, conversation.turns > 1))
    assert len(ends) > 1


@pytest.mark.parametrize("given", SETTINGS)
def test_a_conversation_comes_to_the_same_alone_and_among_others(models, given):
    together = rolled_out(models, SAMPLES, **given)
    backwards = rolled_out(models, SAMPLES[::-1], **given)[::-1]
    for sample, found, again in zip(SAMPLES, together, backwards):
        (alone,) = rolled_out(models, [sample], **given)
        same(alone, found)
        same(again, found)


def test_no_samples_are_no_conversations(models):
    assert rolled_out(models, []) == []


def test_the_first_reply_of_several_is_that_of_one(models):
    """Whatever K is: the draws are told apart by their number."""
    keys = {}

    class Remembering(CachedStepper):
        def draw(self, draws):
            pieces = super().draw(draws)
            keys.setdefault(k, [(d.row, d.key, d.written, p.ids) for d, p in zip(draws, pieces)])
            return pieces

    for k in (1, 4):
        stepper = Remembering(models[0], TOKENIZER, SamplingParams(64), StepRule(()), frozenset([END, EOS]))
        spec, *_ = limits("random", k, seed=7)
        converse(SAMPLES[:3], OneStepper(stepper), Corridors(), spec, 2)
    assert keys[1] == keys[4][::4]
    expected = [
        stream_key(7, problem.prompt_id, sample * 100_000_000 + k) for problem, sample in SAMPLES[:3] for k in range(4)
    ]
    assert [key for _, key, _, _ in keys[4]] == expected
    assert {written for _, _, written, _ in keys[4]} == {0}


@pytest.mark.parametrize("given", SETTINGS)
def test_every_token_is_read_once_by_policy_and_value_model(models, given, monkeypatch):
    read = {"policy": 0, "value": 0}
    for name, model in zip(read, models):
        forward = model.forward

        def counted(*args, name=name, forward=forward, **more):
            width = more["input_ids"].shape[1]
            read[name] += int(more["attention_mask"][:, -width:].sum())
            return forward(*args, **more)

        monkeypatch.setattr(model, "forward", counted)
    found = [f for f in rolled_out(models, SAMPLES, **given) if f.conversation is not None]
    expected = 0
    for one in found:
        mask = one.conversation.tokens().action_mask
        seen = sum(m["role"] == "user" for m in one.conversation.completion)
        draws = given["replies"] * one.conversation.turns
        # the last token of each draw is read only where the conversation goes on, with the observation after it
        expected += int((~mask).sum()) + one.tokens_generated - draws + seen
    assert read["policy"] == expected
    assert read["value"] == sum(one.tokens_scored for one in found)
    assert (read["value"] > 0) == (given["replies"] > 1 and given.get("search") != "random")


class ScriptedStepper:
    """Replies by (number of the turn, row, number of the draw), as ids."""

    def __init__(self, script):
        self.script, self.turn, self.rows, self.limits = script, 0, [], []

    def start(self, prompts):
        self.rows = [(k, list(prompt)) for k, prompt in enumerate(prompts)]

    def draw(self, draws):
        pieces, count = [], {}
        self.grown = []
        for draw in draws:
            k = count[draw.row] = count.get(draw.row, -1) + 1
            number, before = self.rows[draw.row]
            options = self.script[number][self.turn]
            ids = options[k % len(options)][: draw.left]
            reason = StopReason.STOP if ids[-1] in (END, EOS) else StopReason.LENGTH
            pieces.append(Continuation(tuple(ids), (-0.5,) * len(ids), reason, "", len(ids)))
            self.grown.append((number, before + list(ids)))
            self.limits.append((number, draw.left))
        return pieces

    def keep(self, chosen):
        self.rows = [self.grown[k] for k in chosen]

    def extend(self, more):
        self.rows = [(number, row + list(ids)) for (number, row), ids in zip(self.rows, more, strict=True)]
        self.turn += 1


def by_hand(script, rows_value=None, environments=None, kinds=None, **given):
    """Conversations with the replies of a script; values from whole rows."""
    stepper = ScriptedStepper(script)
    samples = [(problem(f"p{k}", (kinds or {}).get(k, "plain")), 0) for k in range(len(script))]
    scorer = None if rows_value is None else FunctionScorer(lambda rows: [rows_value(row) for row in rows])
    spec, max_turns, max_length = limits(**{"max_new_tokens": 5, **given})
    environments = environments or Corridors()
    rollouts = converse(samples, OneStepper(stepper, max_length), environments, spec, max_turns, scorer)
    return rollouts, stepper, environments


def contents(found, role="assistant"):
    return [m["content"] for m in found.conversation.completion if m["role"] == role]


STAY, ONE_LEFT, OUT, CUT = [GO, END], [GO, LEFT, END], [LEFT, DOOR, EOS], [GO, GO, GO, GO, GO]


def test_turns_by_hand():
    script = [[[STAY], [ONE_LEFT], [OUT]], [[OUT]], [[STAY], [STAY], [OUT]]]
    found, stepper, environments = by_hand(script, max_turns=3)
    assert environments.calls == [
        {0: "go", 1: " left door", 2: "go"}, {0: "go left", 2: "go"}, {0: " left door", 2: " left door"},
    ]  # fmt: skip
    assert [f.stop_reason for f in found] == [StopReason.STOP] * 3
    assert [f.rewards for f in found] == [[0, 0, 1], [1], [0, 0, 1]]
    assert contents(found[0]) == ["go", "go left", " left door"]
    assert contents(found[0], "user") == ["wall!go", "wall!!go"]
    assert [f.tokens_generated for f in found] == [8, 3, 7]
    assert found[0].values == []
    before_last = [(number, row) for number, row in stepper.rows]
    assert before_last == [(0, found[0].conversation.ids[:-3]), (2, found[2].conversation.ids[:-3])]


def test_the_most_valued_reply_is_said_the_first_of_equals():
    script = [[[STAY, [RIGHT, END], ONE_LEFT, STAY], [OUT, [DOOR, END], OUT, OUT]]]
    values = {GO: 0.5, RIGHT: 0.75, LEFT: 0.75, DOOR: 0.25}
    (found,), _, environments = by_hand(script, lambda row: values[row[-2]], replies=4)
    assert environments.calls == [{0: " right"}, {0: " left door"}]
    assert found.values == [0.75, 0.25]
    assert found.tokens_generated == 2 + 2 + 3 + 2 + 3 + 2 + 3 + 3
    prompt = int(found.conversation.tokens().action_mask.argmax())
    second = prompt + 2 + len(TOKENIZER("\n<user>wall!<end>\n<assistant>")["input_ids"])
    assert found.tokens_scored == (prompt + 2) + (prompt + 2) + (prompt + 3) + (second + 3) + (second + 2)


def test_a_value_model_reads_replies_before_their_end_and_observations_once(models):
    """Values in the second turn are of the whole conversation so far, the end of the first reply included."""
    script = [[[STAY, ONE_LEFT], [[WALL, END], [RIGHT, RIGHT, EOS]]]]
    spec, *_ = limits(replies=2, max_new_tokens=5)
    engine = OneStepper(ScriptedStepper(script))
    (found,) = converse([(problem("p"), 0)], engine, Corridors(), spec, 2, ValueScorer(models[1]))
    tokens = found.conversation.tokens()
    with torch.inference_mode():
        plain = models[1](input_ids=torch.tensor(found.conversation.ids)[None]).logits[0, :, 0]
    stops = [stop for _, stop in action_runs(tokens.action_mask)]
    # as in training: V of the action at p is read at p - 1, and the action is the end token at stop - 1
    assert found.values == pytest.approx([float(plain[stop - 2]) for stop in stops], abs=1e-9)


def test_a_cut_reply_ends_the_conversation_and_is_not_sent():
    (found, other), stepper, environments = by_hand([[[STAY], [CUT]], [[STAY], [OUT]]])
    assert environments.calls == [{0: "go", 1: "go"}, {1: " left door"}]
    assert (found.stop_reason, found.error) == (StopReason.LENGTH, None)
    assert contents(found) == ["go", "gogogogogo"]
    assert found.rewards == [0]
    assert other.stop_reason is StopReason.STOP
    assert stepper.limits[0] == (0, 5)


def test_a_cut_reply_is_not_eligible_beside_a_finished_one():
    value = {GO: 9.0, LEFT: 0.0, DOOR: 1.0}
    for search in ("best-of", "random"):
        script = [[[CUT, ONE_LEFT, CUT, CUT], [CUT, OUT, CUT, CUT]]]
        (found,), _, environments = by_hand(script, lambda row: value[row[-2]], replies=4, search=search)
        assert environments.calls == [{0: "go left"}, {0: " left door"}]
        assert found.values == ([0.0, 1.0] if search == "best-of" else [])
    (found,), _, environments = by_hand([[[CUT, [GO] * 4 + [LEFT]]]], lambda row: 0.0, replies=2)
    assert environments.calls == []
    assert found.stop_reason is StopReason.LENGTH
    assert found.values == []
    assert contents(found) == ["gogogogogo"]


def test_turns_run_out():
    (found,), _, environments = by_hand([[[STAY], [STAY], [STAY]]], max_turns=2)
    assert len(environments.calls) == 2
    assert found.stop_reason is StopReason.LENGTH
    assert found.rewards == [0, 0]
    assert contents(found, "user") == ["wall!go"]
    (found,), *_ = by_hand([[[STAY], [OUT]]], max_turns=2)
    assert found.stop_reason is StopReason.STOP


def test_room_runs_out():
    """The prompt of 11 tokens, a reply of 2, an observation of 8, and one token more."""
    (free,), *_ = by_hand([[[STAY], [CUT]]])
    prompt, reply, seen = 11, 2, 8
    mask = free.conversation.tokens().action_mask.tolist()
    assert mask == [False] * prompt + [True] * reply + [False] * seen + [True] * 5
    whole = prompt + reply + seen
    (none,), stepper, _ = by_hand([[[STAY]]], max_length=whole)
    assert none.stop_reason is StopReason.LENGTH
    assert len(none.conversation.ids) == prompt + reply
    assert contents(none, "user") == []
    assert none.rewards == [0]
    (one,), stepper, _ = by_hand([[[STAY], [CUT]]], max_length=whole + 1)
    assert stepper.limits == [(0, 5), (0, 1)]
    assert one.stop_reason is StopReason.LENGTH
    assert len(one.conversation.ids) == whole + 1
    (cut,), stepper, environments = by_hand([[[STAY]]], max_length=prompt + 1)
    assert environments.calls == []
    assert cut.stop_reason is StopReason.LENGTH
    (full,), *_ = by_hand([[[STAY]]], max_length=prompt)
    assert full.error == "the prompt has 11 tokens, the model reads 11"
    assert full.episode().verdict is Verdict.UNDECIDED


def test_a_crash_is_undecided_and_the_others_go_on():
    script = [[[STAY], [OUT]], [[STAY], [STAY]], [[STAY], [OUT]], [[OUT]]]
    kinds = {1: "crashing", 3: "stillborn"}
    found, *_ = by_hand(script[:3], kinds=kinds)
    assert [f.error for f in found] == [None, "the corridor fell in", None]
    assert found[1].rewards == [0]
    episode = found[1].episode()
    assert (episode.reward, episode.verdict, episode.stop_reason) == (None, Verdict.UNDECIDED, StopReason.UNKNOWN)
    assert episode.metadata["error"] == "the corridor fell in"
    assert episode.tokens is not None
    assert [m["role"] for m in episode.completion] == ["assistant", "user", "assistant"]
    for one in (found[0], found[2]):
        assert one.episode().verdict is Verdict.RIGHT
    found, *_ = by_hand([script[0], [], [], []], kinds={1: "stillborn", 2: "stillborn", 3: "stillborn"})
    assert found[0].error is None
    for one in found[1:]:
        assert (one.error, one.conversation, one.tokens_generated) == ("no corridor", None, 0)
        episode = one.episode()
        assert (episode.reward, episode.verdict, episode.tokens) == (None, Verdict.UNDECIDED, None)
        assert episode.prompt == [SYSTEM]
        assert episode.completion == [{"role": "assistant", "content": ""}]
        assert episode.metadata["turns"] == 0


def test_a_value_that_is_none_ends_its_own_conversation_alone():
    script = [[[STAY, ONE_LEFT], [OUT, STAY]], [[STAY, [WALL, END]], [OUT, STAY]], [[OUT, STAY]]]

    def value(row):
        return math.nan if row[-2] == WALL else float(row[-2] == DOOR)

    found, _, environments = by_hand(script, value, replies=2)
    assert [f.error for f in found] == [None, "the scorer returned NaN", None]
    assert environments.calls == [{0: "go", 2: " left door"}, {0: " left door"}]
    episode = found[1].episode()
    assert (episode.verdict, episode.tokens, episode.reward) == (Verdict.UNDECIDED, None, None)
    assert episode.metadata == {
        "answer": "door", "kind": "plain", "size": 1, "turns": 0, "tokens_generated": 4,
        "tokens_scored": found[1].tokens_scored, "error": "the scorer returned NaN",
    }  # fmt: skip
    assert found[1].tokens_scored > 0


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_undecided(reward):
    class Odd(Corridor):
        def step(self, reply):
            return Observation("wall", reward, True)

    (found,), *_ = by_hand([[[STAY]]], environments=Corridors(Odd))
    assert found.error == f"the environment's reward is {reward}"
    assert found.episode().verdict is Verdict.UNDECIDED


def test_an_environment_that_is_over_before_it_began_is_undecided():
    class Over(Corridor):
        def reset(self, problem):
            return Observation("wall", 0.0, True)

    (found,), _, environments = by_hand([[[STAY]]], environments=Corridors(Over))
    assert found.error == "the environment was done before the first reply"
    assert environments.calls == []


def paid(rewards, **given):
    """An episode whose replies were rewarded so; the environment ends it."""

    class Paying(Corridor):
        def step(self, reply):
            self.turns += 1
            return Observation("wall", rewards[self.turns - 1], self.turns == len(rewards))

    (found,), *_ = by_hand([[[STAY]] * len(rewards)], environments=Corridors(Paying), **given)
    return found, found.episode()


@pytest.mark.parametrize(
    ("rewards", "reward", "step_rewards", "verdict"),
    [
        ([1.0], 1.0, None, Verdict.RIGHT),
        ([0.0, 0.0, 1.0], 1.0, None, Verdict.RIGHT),
        ([0.0, 0.5], 0.5, None, Verdict.WRONG),
        ([0.0, 0.0], 0.0, None, Verdict.WRONG),
        ([0.5, 0.5, 0.0], 0.0, (0.5, 0.5, 0.0), Verdict.RIGHT),
        ([-0.5, 1.0], 1.0, (-0.5, 0.0), Verdict.WRONG),
        ([0.1] * 10, 0.1, (*[0.1] * 9, 0.0), Verdict.RIGHT),
    ],
)
def test_rewards_become_an_outcome_and_step_rewards(rewards, reward, step_rewards, verdict):
    _, episode = paid(rewards, max_turns=10)
    assert (episode.reward, episode.step_rewards, episode.verdict) == (reward, step_rewards, verdict)
    assert episode.stop_reason is StopReason.STOP
    row = align(episode, TOKENIZER, StepRule(()))
    ends = [stop - 1 for _, stop in action_runs(row.action_mask)]
    exit_reason = [end - 1 for end in ends]
    expected = np.zeros(len(row), np.float32)
    expected[exit_reason[: len(rewards) - 1]] = rewards[:-1]
    expected[ends[-1]] = rewards[-1]
    assert row.reward.tolist() == expected.tolist()
    assert not row.retokenised


def test_a_truncated_conversation_keeps_what_its_replies_were_rewarded_with():
    for rewards, expected in (([0.5, 0.0, 9.0], (0.5, 0.0)), ([0.0, 0.25, 9.0], (0.0, 0.25)), ([0.0] * 3, None)):
        found, episode = paid(rewards, max_turns=2)
        assert found.rewards == rewards[:2]
        assert (episode.reward, episode.verdict, episode.stop_reason) == (None, None, StopReason.LENGTH)
        assert episode.step_rewards == expected
    (found,), *_ = by_hand([[[STAY], [CUT]]])
    found.rewards = [0.5]
    assert found.episode().step_rewards == (0.5, 0.0)


def test_an_episode_is_what_was_said():
    (found,), *_ = by_hand([[[STAY], [OUT]]])
    found.sample = 6
    episode = found.episode()
    assert (episode.prompt_id, episode.sample) == ("p0", 6)
    assert episode.prompt == [SYSTEM, {"role": "user", "content": "wall left"}]
    assert [m["content"] for m in episode.completion] == ["go", "wall!go", " left door"]
    assert episode.tokens.ids.tolist() == found.conversation.ids
    assert episode.metadata == {
        "answer": "door", "kind": "plain", "size": 1, "turns": 2, "tokens_generated": 5, "tokens_scored": 0,
    }  # fmt: skip
    nobody = Rollout(Problem("q", [], "x"), error="gone")
    assert nobody.episode().prompt == [{"role": "user", "content": ""}]


def test_a_choice_by_value_needs_a_scorer(models):
    engine = OneStepper(stepper_of(models[0]))
    with pytest.raises(InputError, match="search: best-of needs a scorer"):
        converse(SAMPLES, engine, Corridors(), limits(replies=2, max_new_tokens=1)[0], 1)
    assert len(converse(SAMPLES, engine, Corridors(), limits(replies=1, max_new_tokens=1)[0], 1)) == len(SAMPLES)
    assert isinstance(Corridor(), Environment)
