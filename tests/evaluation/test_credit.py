"""Credit of every token and step: identities between tokens, steps and models, at the states of training."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from doubles.models import tiny_llama
from doubles.real import TOKENIZERS, real_tokenizer
from doubles.tokenizers import byte_tokenizer
from stepcredit.episodes.alignment import TokenTexts
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.measures import outcome_of
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.evaluation.credit import CreditModels, credit_lines, credit_of, encoded, shown_texts
from stepcredit.evaluation.credit_file import short_names
from stepcredit.models.loading import value_model_from
from stepcredit.models.scoring import values_of
from stepcredit.models.states import ValueStates
from stepcredit.verdict import Verdict

TOKENIZER, RULE = byte_tokenizer(), StepRule(("\n",))


def value_model(seed, level=None):
    """A value model of a few thousand weights, of which V differs between states."""
    model = value_model_from(tiny_llama(seed=seed)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        model.score.weight.normal_(0, 3.0)
    if level is not None:
        ValueStates(level, RULE.delimiters, None).describe(model.config)
    return model


def models(*levels, policies=False):
    values = {f"v{k}": value_model(k, level) for k, level in enumerate(levels)}
    shifted = (tiny_llama(seed=7).eval(), tiny_llama(seed=8).eval()) if policies else (None, None)
    return CreditModels(values, TOKENIZER, *shifted)


def text(completion="2+2=4\n4*3=13\nso 13", **more):
    return Episode(prompt="sum?", completion=completion, **{"reward": 0.0, "prompt_id": "p", **more})


CHAT = Episode(
    prompt=[{"role": "user", "content": "find it"}],
    completion=[
        {"role": "assistant", "content": "look\nleft"},
        {"role": "tool", "content": "empty"},
        {"role": "assistant", "content": "look right"},
    ],
    reward=1.0,
    prompt_id="c",
)


def lines(episode, given):
    trajectory = encoded(episode, TOKENIZER, RULE, TokenTexts(TOKENIZER))
    (numbers,) = credit_of([trajectory], given)
    return trajectory, list(credit_lines(3, "logs", episode, trajectory, numbers, TOKENIZER))


def of(rows, kind):
    return [row for row in rows if row.line == kind]


def test_v_of_a_token_is_that_of_the_state_before_it():
    given = models("token", None)
    trajectory, rows = lines(text(), given)
    tokens = of(rows, "token")
    assert [t.position for t in tokens] == np.flatnonzero(trajectory.action_mask).tolist()
    for k, model in enumerate(given.value_models.values()):
        expected = values_of(model, [trajectory])[0][trajectory.action_mask]
        np.testing.assert_allclose([t.value[k] for t in tokens], expected, atol=1e-5)


@pytest.mark.parametrize("episode", [text(), CHAT], ids=["text", "chat"])
def test_changes_of_tokens_add_up_to_those_of_steps_and_of_the_episode(episode):
    _, rows = lines(episode, models("token", "token"))
    (head,), steps, tokens = (of(rows, kind) for kind in ("episode", "step", "token"))
    assert all(len({*map(len, (row.value, row.change))}) == 1 for row in steps + tokens)
    for k in (0, 1):
        for step in steps[:-1]:
            inside = math.fsum(t.change[k] for t in tokens if t.step == step.step)
            assert step.change[k] == pytest.approx(inside, abs=1e-4)
        last = steps[-2].value[k]
        assert head.value[k] + math.fsum(s.change[k] for s in steps[:-1]) == pytest.approx(last, abs=1e-4)
        assert steps[-1].value[k] is None
        assert tokens[-1].change[k] is None
        for one, other in pairwise(tokens):
            assert one.value[k] + one.change[k] == pytest.approx(other.value[k], abs=2e-5)


def test_steps_are_those_of_the_rule_and_the_end_is_its_own():
    _, rows = lines(text(), models("token"))
    assert [(s.text, s.end, s.false_equation, s.turn) for s in of(rows, "step")] == [
        ("2+2=4\n", False, False, 0),
        ("4*3=13\n", False, True, 0),
        ("so 13", False, False, 0),
        ("<eos>", True, False, 0),
    ]
    assert {row.episode for row in rows} == {3}


def test_a_step_level_model_has_v_at_the_starts_of_steps_only():
    _, rows = lines(text(), models("step", "token"))
    starts = {t.step: t for t in reversed(of(rows, "token"))}
    for token in of(rows, "token"):
        assert (token.value[0] is not None) == (token is starts[token.step])
        assert token.value[1] is not None
    steps = of(rows, "step")
    for step, after in pairwise(steps):
        assert step.value[0] == starts[after.step].value[0]
        assert step.change[0] == pytest.approx(step.value[0] - starts[step.step].value[0], abs=2e-5)


def test_a_response_level_model_has_v_of_the_prompt_only():
    _, rows = lines(text(), models("response"))
    assert of(rows, "episode")[0].value[0] is not None
    assert [t.value[0] is not None for t in of(rows, "token")] == [True] + [False] * (len(of(rows, "token")) - 1)
    assert all(s.value == [None] and s.change == [None] for s in of(rows, "step"))


def test_log_ratios_and_kl_are_those_of_the_logits_and_sums_over_steps():
    given = models("token", policies=True)
    trajectory, rows = lines(text(), given)
    ids = torch.tensor(trajectory.ids[None].astype(np.int64))
    with torch.no_grad():
        pi, ref = (m(ids).logits[0].double().log_softmax(-1) for m in (given.policy, given.reference))
    for token in of(rows, "token"):
        p, r = pi[token.position - 1], ref[token.position - 1]
        assert token.log_ratio == pytest.approx(float(p[token.id] - r[token.id]), abs=2e-4)
        assert token.kl == pytest.approx(float((p.exp() * (p - r)).sum()), abs=2e-4)
    for step in of(rows, "step"):
        inside = [t for t in of(rows, "token") if t.step == step.step]
        assert step.log_ratio == pytest.approx(math.fsum(t.log_ratio for t in inside), abs=1e-4)
        assert step.kl == pytest.approx(math.fsum(t.kl for t in inside), abs=1e-4)


def test_without_policies_there_are_no_log_ratios():
    _, rows = lines(text(), models("token"))
    assert {(row.log_ratio, row.kl) for row in of(rows, "step") + of(rows, "token")} == {(None, None)}


def test_observations_stand_between_the_turns():
    _, rows = lines(CHAT, models("token"))
    shown = [
        (r.line, r.text if r.line == "observation" else (r.turn, r.end))
        for r in rows
        if r.line in ("step", "observation")
    ]
    assert shown == [
        ("step", (0, False)), ("step", (0, False)), ("step", (0, True)), ("observation", "empty"),
        ("step", (1, False)), ("step", (1, True)),
    ]  # fmt: skip


def test_a_turn_that_a_limit_cut_is_shown_and_is_no_action():
    tokens = encoded(CHAT, TOKENIZER, RULE, TokenTexts(TOKENIZER))
    cut = replace(CHAT, stop_reason=StopReason.LENGTH, reward=None)
    _, rows = lines(cut, models("token"))
    assert of(rows, "step")[-1].turn == 0
    assert [(o.role, o.text) for o in of(rows, "observation")] == [
        ("tool", "empty"), ("assistant, cut", "look right")
    ]  # fmt: skip
    assert len(of(rows, "token")) < tokens.action_mask.sum()


@pytest.mark.parametrize("said", ["2+2=4\n4*", "2+2=4\n4"])  # the last step of one token is no end either
def test_a_response_that_a_limit_cut_has_no_end(said):
    _, rows = lines(text(said, stop_reason=StopReason.LENGTH), models("token"))
    assert [s.end for s in of(rows, "step")] == [False, False]
    assert of(rows, "step")[-1].value == [None]


def test_step_rewards_stand_at_their_steps_without_the_outcome():
    _, rows = lines(text(reward=1.0, step_rewards=(0.5, -0.25, 0.125)), models("token"))
    assert [s.reward for s in of(rows, "step")] == [0.5, -0.25, 0.125, 0.0]
    _, rows = lines(text(), models("token"))
    assert {s.reward for s in of(rows, "step")} == {None}


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({"reward": 1.0}, "right"), ({"reward": 0.0}, "wrong"), ({"reward": None}, "undecided"),
        ({"reward": 0.0, "verdict": Verdict.RIGHT}, "right"), ({"stop_reason": StopReason.LENGTH}, "truncated"),
    ],
)  # fmt: skip
def test_the_verdict_of_an_episode(more, outcome):
    assert outcome_of(text(**more)) == outcome
    _, rows = lines(text(**more), models("token"))
    assert (rows[0].verdict, rows[0].reward) == (outcome, text(**more).reward)


@pytest.mark.parametrize("said", ["żółw → 3\n", "日本語です", "a 👩‍🔬 b", "\ufffd raw", "plain"])
@pytest.mark.parametrize("name", ["bytes", *TOKENIZERS])
def test_texts_of_tokens_add_up_to_the_text(name, said):
    tokenizer = TOKENIZER if name == "bytes" else real_tokenizer(name)
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    texts = shown_texts(ids, tokenizer)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_ids_outside_of_a_vocabulary_are_refused():
    trajectory = encoded(text(), TOKENIZER, RULE, TokenTexts(TOKENIZER))
    small = value_model_from(tiny_llama(vocab_size=258)).eval()
    with pytest.raises(InputError, match=r"small: has the token id|another tokenizer"):
        credit_of([replace(trajectory, ids=trajectory.ids + 2)], CreditModels({"small": small}, TOKENIZER))


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["out/oreo/value"], ["oreo/value"]),
        (["value"], ["value"]),
        (["runs/a/value", "runs/b/value"], ["a", "b"]),
        (["a/value", "b/value", "c/d/value"], ["a", "b", "c/d"]),
        (["x/value", "x/value2"], ["value", "value2"]),
        (["v", "w/v"], ["v", "w/v"]),
    ],
)
def test_short_names_of_models(names, short):
    assert short_names(names) == short
    assert len(set(short)) == len(short)


def test_a_model_given_twice_is_refused():
    with pytest.raises(InputError, match="twice"):
        short_names(["a", "a"])
