"""Credit in numbers: signals with a known answer on responses of which every step is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stepcredit.engines.scripted import ScriptedEngine
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.evaluation.step_credit import (
    ONLY_KIND,
    auc_rows,
    calibration_rows,
    changes,
    continuation_success,
    credit_rows,
    implicit_changes,
    judge,
    prior_changes,
    rates_of_kinds,
    values_after_steps,
    with_values,
)
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.metrics.localisation import ANY_KIND
from stepcredit.models.loading import value_model_from
from stepcredit.models.scoring import step_starts
from stepcredit.results.schema import SignalRow
from stepcredit.results.schema import written as written_row
from stepcredit.tasks.arithmetic import Arithmetic, work

TASK = Arithmetic()
TOKENIZER = TASK.tokenizer()
RULE = StepRule(TASK.step_delimiters)
A, B = TASK.problems("test", 2)
FLIP = {"odd": "even", "even": "odd"}


def written(problem, kinds, wrong):
    """A response whose lines are of these kinds and wrong where they should be; the answer repeats them."""
    groups = [[int(d) for d in part.split()] for part in problem.prompt.removeprefix("digits").split("|")]
    lines, stated = [], []
    for digits, truth, kind, is_wrong in zip(groups, problem.answer.split(), kinds, wrong):
        said = FLIP[truth] if is_wrong else truth
        start = said if kind == "guess" else "even"
        lines.append(f"{kind} {start}{work(digits, int(start == 'odd'))} so {said}\n")
        stated.append(said)
    return "".join(lines) + "answer " + " ".join(stated)


def episode(problem, text, **more):
    grade = TASK.grade(problem, text)
    given = {"reward": grade.reward, "stop_reason": StopReason.STOP, "prompt_id": problem.prompt_id, **more}
    return Episode(prompt=problem.prompt, completion=text, **given)


def response(problem, kinds="wgw", wrong="..."):
    names = {"w": "work", "g": "guess"}
    return episode(problem, written(problem, [names[k] for k in kinds], [x == "x" for x in wrong]))


def judged_responses(*episodes, problems=(A, B), task=TASK):
    return judge(task, problems, TOKENIZER, episodes, RULE)


FOUR = (response(A, "wgw", ".x."), response(A, "ggw", "..."), response(B, "gww", "x.x"), response(B, "wgg", "..x"))


def oracle(judged):
    """V that knows: 1 until the first wrong step, 0 from there on."""
    return [np.array([1.0, *np.cumprod([not w for w in j.wrong])]) for j in judged]


ABOUT = {"task": "t"}
OF_V = {"task": "t", "signal": "V"}


def the(rows, metric, signal=None, at=None):
    (row,) = [r for r in rows if (r.metric, r.signal, r.at) == (metric, signal or "V", at)]
    return row


def test_what_is_judged():
    first, second, *_ = judged_responses(*FOUR)
    assert (first.kinds, first.wrong) == (("work", "guess", "work", "answer"), (False, True, False, False))
    assert (first.right, second.right, first.prompt_id) == (False, True, A.prompt_id)
    assert len(step_starts(first.trajectory)) == 5


def test_what_is_left_out():
    """Truncated, undecided, of steps that are counted otherwise (a blank line is none to the rule)."""
    text = str(FOUR[0].completion)
    cut = replace(FOUR[0], stop_reason=StopReason.LENGTH)
    undecided = episode(A, text, reward=None)
    blank = episode(A, text.replace("\n", "\n\n", 1))
    assert judged_responses(cut, undecided, blank) == []
    assert [j.episode for j in judged_responses(cut, FOUR[1], blank)] == [FOUR[1]]


class Plain:
    """The task without what it knows of kinds, and maybe of steps."""

    name, version, max_new_tokens, step_delimiters = "plain", "1", 64, ("\n",)

    def __init__(self, knows_steps):
        self.knows_steps = knows_steps

    def problems(self, split, count=None, seed=0):
        return [A, B]

    def grade(self, problem, text):
        return TASK.grade(problem, text)

    def wrong_steps(self, problem, text):
        return TASK.wrong_steps(problem, text) if self.knows_steps else None


def test_tasks_that_know_less():
    (one,) = judged_responses(FOUR[0], task=Plain(True))
    assert one.kinds == (ONLY_KIND,) * 4
    assert judged_responses(FOUR[0], task=Plain(False)) == []


def test_a_value_that_knows_finds_every_first_wrong_step():
    judged = judged_responses(*FOUR)
    rows = credit_rows(judged, {"oracle": changes(oracle(judged))}, ABOUT)
    assert the(rows, "first_wrong_step", "oracle") == SignalRow(
        task="t",
        signal="oracle",
        metric="first_wrong_step",
        at=None,
        estimate=1.0,
        low=1.0,
        high=1.0,
        n=3,
        prompts=2,
        note="largest drop is the first wrong step",
    )
    # A: the wrong guess against two right ones; B: two first wrong guesses against one right one
    assert the(rows, "kind_matched_pairs", "oracle").n == 4
    assert the(rows, "kind_matched_pairs", "oracle").estimate == 1.0
    # and in B the wrong work at the end of the third, which drops no more than two right ones: V is 0 already
    row = the(rows, "kind_matched_pairs_all", "oracle")
    assert (row.n, row.estimate) == (2 + 2 + 2, round((2 + 2 + 2 * 0.5) / 6, 6))
    chance = the(rows, "first_wrong_step_chance", "chance")
    assert (chance.estimate, chance.low, chance.high, chance.n) == (0.25, None, None, 3)


def test_the_kind_prior_by_hand():
    """In training one guess of three is wrong, no work; so it points at the first guess of each response."""
    training = judged_responses(response(A, "gww", "x.."), response(A, "gwg", "..."))
    rates = rates_of_kinds(training)
    assert rates == {"guess": 1 / 3, "work": 0.0, "answer": 0.0, ANY_KIND: 1 / 5}
    judged = judged_responses(*FOUR)
    prior = prior_changes(judged, rates)
    assert prior[0].tolist() == [0.0, -1 / 3, 0.0, 0.0]
    rows = credit_rows(judged, {"prior": prior}, ABOUT)
    assert the(rows, "first_wrong_step", "prior").estimate == round(2 / 3, 6)
    assert the(rows, "kind_matched_pairs", "prior").estimate == 0.5
    assert the(rows, "kind_matched_pairs_all", "prior").estimate == 0.5


def test_right_responses_count_in_pairs_alone():
    judged = judged_responses(FOUR[1])
    assert credit_rows(judged, {"oracle": changes(oracle(judged))}, ABOUT) == []
    lucky = judged_responses(episode(A, str(FOUR[0].completion), reward=1.0), FOUR[1])
    rows = credit_rows(lucky, {"oracle": changes(oracle(lucky))}, ABOUT)
    assert {r.metric for r in rows} == {"kind_matched_pairs", "kind_matched_pairs_all"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s[1:], "has 3 responses; must have one entry per judged response, 4"),
        (lambda s: [s[0][1:], *s[1:]], "one finite number per step"),
        (lambda s: [s[0] * np.nan, *s[1:]], "one finite number per step"),
    ],
)
def test_a_signal_that_does_not_fit_is_refused(spoil, message):
    judged = judged_responses(*FOUR)
    with pytest.raises(InputError, match=message):
        credit_rows(judged, {"x": spoil(changes(oracle(judged)))}, ABOUT)


class Recording(ScriptedEngine):
    """Goes on as a careful writer would, from whatever was written; remembers what it was asked."""

    def __init__(self, script):
        super().__init__(script, TOKENIZER)
        self.asked = []

    def generate(self, requests, params):
        self.asked += [(request, params) for request in requests]
        return super().generate(requests, params)


def careful(request):
    """Right lines for the groups that are left, then an answer that repeats all lines."""
    text = TOKENIZER.decode(list(request.prompt_ids), clean_up_tokenization_spaces=False)
    problem = next(p for p in (A, B) if text.startswith(p.prompt))
    lines = text.removeprefix(problem.prompt).split("\n")
    if lines[-1].startswith("answer"):
        return [TOKENIZER.eos_token_id]
    rest = written(problem, ["work"] * 3, [False] * 3).split("\n")[len(lines) - 1 : 3]
    stated = [line.split(" ")[-1] for line in lines[:-1] + rest]
    rest = "".join(f"{line}\n" for line in rest) + "answer " + " ".join(stated)
    return [*TOKENIZER(rest)["input_ids"], TOKENIZER.eos_token_id]


def test_success_of_a_careful_writer_is_the_oracle():
    judged = judged_responses(*FOUR)
    success = continuation_success(TASK, [A, B], judged, Recording(careful), continuations=3)
    for found, known in zip(success, oracle(judged), strict=True):
        assert found.tolist() == known.tolist()


def test_continuations_start_from_the_exact_ids_and_each_state_is_drawn_once():
    judged = judged_responses(*FOUR, FOUR[0])
    engine = Recording(careful)
    continuation_success(TASK, [A, B], judged, engine, continuations=3, seed=5)
    states = {tuple(j.trajectory.ids[:p].tolist()) for j in judged for p in step_starts(j.trajectory)}
    assert len(states) == 2 * (1 + 4 + 4), "two prompts, four more states in each of four responses"
    asked = [request for request, _ in engine.asked]
    assert sorted(r.prompt_ids for r in asked) == sorted([*states] * 3)
    assert len({(r.prompt_id, r.sample) for r in asked}) == len(asked), "noise of its own for each draw"
    assert not {r.prompt_id for r in asked} & {A.prompt_id, B.prompt_id}, "nor that of the responses"
    for request, params in engine.asked:
        problem = next(p for p in (A, B) if request.prompt_id.startswith(p.prompt_id))
        before = len(TOKENIZER(problem.prompt)["input_ids"])
        assert params.max_new_tokens == TASK.max_new_tokens - (len(request.prompt_ids) - before)
        assert (params.temperature, params.top_p, params.top_k, params.seed) == (1.0, 1.0, 0, 5)


def test_noise_depends_on_the_state_alone():
    names = []
    for judged in (judged_responses(*FOUR), judged_responses(*FOUR[::-1])[:3]):
        engine = Recording(careful)
        continuation_success(TASK, [A, B], judged, engine, continuations=1)
        names.append({r.prompt_ids: r.prompt_id for r, _ in engine.asked})
    assert names[1].items() <= names[0].items()


def test_rates_are_shares_and_a_cut_continuation_does_not_succeed():
    judged = judged_responses(FOUR[1])
    end = TOKENIZER.eos_token_id

    def script(request):
        rambling = TOKENIZER("work" * 80)["input_ids"]
        return (careful(request), [end], rambling, careful(request))[request.sample]

    (rates,) = continuation_success(TASK, [A], judged, ScriptedEngine(script, TOKENIZER), continuations=4)
    assert rates.tolist() == [0.5, 0.5, 0.5, 0.5, 0.75], "to end at once is right where the answer is written"


def test_a_continuation_cut_before_its_end_token_does_not_succeed():
    """There is room for all of a right response but its end token; the text alone would be graded right."""
    judged = judged_responses(FOUR[1])
    short = Arithmetic()
    short.max_new_tokens = len(judged[0].trajectory) - len(TOKENIZER(A.prompt)["input_ids"]) - 1
    (rates,) = continuation_success(short, [A], judged, Recording(careful), continuations=2)
    assert rates.tolist() == [0.0] * 5
    short.max_new_tokens += 1
    (rates,) = continuation_success(short, [A], judged, Recording(careful), continuations=2)
    assert rates.tolist() == [1.0] * 5


def test_no_room_is_no_success():
    judged = judged_responses(FOUR[1])
    short = Arithmetic()
    short.max_new_tokens = int(step_starts(judged[0].trajectory)[1]) - len(TOKENIZER(A.prompt)["input_ids"])
    (rates,) = continuation_success(short, [A], judged, Recording(careful), continuations=2)
    assert rates.tolist() == [0.0] * 5


def test_auc_at_shares_of_the_steps():
    """The oracle drops at step 2 of 4 in A, at 1 and 3 in B, where no response is right."""
    judged = judged_responses(*FOUR)
    rows = auc_rows(with_values(judged, oracle(judged)), OF_V)
    within = [the(rows, "auc_within_prompt", at=s) for s in (0.25, 0.5, 0.75, 1.0)]
    across = [the(rows, "auc_across_prompts", at=s) for s in (0.25, 0.5, 0.75, 1.0)]
    assert [r.estimate for r in within] == [0.5, 1, 1, 1]
    assert [r.estimate for r in across] == [round(2 / 3, 6), round(2.5 / 3, 6), 1, 1]
    assert [(r.n, r.prompts) for r in (within[0], across[0])] == [(1, 1), (3, 2)]
    assert [r.note for r in across[2:]] == ["75% of the steps written", "before the end token"]
    assert auc_rows([], OF_V) == []


def test_calibration_of_values_by_hand():
    """V 0.9 where the rate is 1, 0.2 where it is 0: errors of 0.1 and 0.2 in ten and five of 15 states."""
    judged = judged_responses(FOUR[0], FOUR[1], FOUR[2])
    success = oracle(judged)
    ones = int(sum(s.sum() for s in success))
    values = [np.where(s == 1, 0.9, 0.2) for s in success]
    rows = calibration_rows(with_values(judged, values), success, 8, OF_V)
    bins = [r for r in rows if r.metric == "calibration"]
    assert [(r.at, r.to, r.predicted, r.estimate, r.n) for r in bins] == [
        (0.2, 0.3, 0.2, 0.0, 15 - ones),
        (0.9, 1.0, 0.9, 1.0, ones),
    ]
    assert the(rows, "expected_calibration_error").estimate == round((ones * 0.1 + (15 - ones) * 0.2) / 15, 6)
    error = the(rows, "value_squared_error")
    assert error.estimate == round((ones * 0.01 + (15 - ones) * 0.04) / 15, 6)
    assert (error.n, error.prompts) == (15, 2)
    assert calibration_rows([], [], 8, OF_V) == []


def test_end_to_end_with_models():
    policy, reference = (policy_from_scratch(TOKENIZER, ModelSize(16, 32, 1, 2), seed=s) for s in (0, 1))
    value_model = value_model_from(policy)
    with torch.no_grad():
        value_model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    episodes = TASK.demonstrations(12, 0)
    problems = TASK.problems("train", 12, 0)
    judged = judge(TASK, problems, TOKENIZER, episodes, RULE)
    assert len(judged) == 12
    values = values_after_steps(judged, value_model)
    success = [
        continuation_success(TASK, problems, judged[:4], TransformersEngine(policy, TOKENIZER, size), 2)
        for size in (3, 64)
    ]
    for one, two, value in zip(*success, values):
        assert one.tolist() == two.tolist(), "batches change no draw"
        assert one.shape == value.shape
    signals = {
        "explicit": changes(values),
        "implicit": implicit_changes(judged, policy, reference, 0.5),
        "prior": prior_changes(judged, rates_of_kinds(judged)),
    }
    twice = implicit_changes(judged, policy, reference, 1.0)
    np.testing.assert_allclose(twice[3], 2 * signals["implicit"][3])
    assert [s.shape for s in twice] == [s.shape for s in signals["explicit"]]
    scored = with_values(judged, values)
    rows = [
        *credit_rows(judged, signals, ABOUT),
        *auc_rows(scored, OF_V),
        *calibration_rows(scored[:4], success[0], 2, OF_V),
    ]
    assert {r.signal for r in rows} == {*signals, "chance", "V"}
    json.dumps([written_row(r) for r in rows], allow_nan=False)
