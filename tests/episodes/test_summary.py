import json
import statistics

import numpy as np
import pytest

from stepcredit.episodes.episode import Episode, StopReason, Tokens
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.summary import outcome_of, summarise
from stepcredit.errors import InputError
from stepcredit.metrics.dataset import Distribution
from stepcredit.verdict import Verdict

LINES = StepRule()


def make(prompt_id="p", reward=1.0, completion="a", **given):
    prompt = given.pop("prompt", f"q {prompt_id}")
    return Episode(prompt=prompt, completion=completion, reward=reward, prompt_id=prompt_id, **given)


def rewards(**by_prompt):
    return [make(p, None if r is None else float(r), f"{k}") for p, row in by_prompt.items() for k, r in enumerate(row)]


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({"reward": 1.0}, "right"),
        ({"reward": 0.5}, "wrong"),
        ({"reward": -1.0}, "wrong"),
        ({"reward": None}, "undecided"),
        ({"reward": None, "verdict": Verdict.UNDECIDED}, "undecided"),
        ({"reward": 0.2, "verdict": Verdict.RIGHT}, "right"),
        ({"reward": 1.0, "verdict": Verdict.WRONG}, "wrong"),
        ({"reward": 1.0, "stop_reason": StopReason.LENGTH}, "truncated"),
        ({"reward": None, "stop_reason": StopReason.LENGTH}, "truncated"),
    ],
)
def test_outcomes(given, outcome):
    assert outcome_of(make(**given)) == outcome
    summary = summarise([make(**given)], LINES)
    shares = {name: getattr(summary, name) for name in ("right", "wrong", "undecided", "truncated")}
    assert shares == {**dict.fromkeys(shares, 0.0), outcome: 1.0}


def test_counts_and_what_teaches_nothing():
    summary = summarise(
        rewards(right=[1, 1], wrong=[0, 0, 0], mixed=[0, 1], single=[1], open=[None, None], one_known=[None, 0]),
        LINES,
    )
    assert (summary.episodes, summary.prompts) == (12, 6)
    assert summary.responses_per_prompt == Distribution(mean=2.0, median=2.0, p95=2.75, max=3.0)
    assert (summary.prompts_all_right, summary.prompts_all_wrong) == (1, 1)
    assert (summary.prompts_single, summary.prompts_undecided) == (2, 1)
    assert summary.right == pytest.approx(4 / 12)
    assert summary.wrong == pytest.approx(5 / 12)
    assert summary.undecided == pytest.approx(3 / 12)
    assert summary.success["0"] == 2
    assert summary.success["0.4 to 0.6"] == 1
    assert summary.success["1"] == 2
    assert summary.prompts_without_outcome == 1
    assert sum(summary.success.values()) == 5


def test_step_rewards_teach():
    steps = {"steps": ("a\n", "b"), "completion": "a\nb", "reward": 0.0}
    assert summarise([make(**steps, step_rewards=(1.0, 0.0))], LINES).prompts_single == 0
    assert summarise([make(**steps, step_rewards=(0.0, 0.0))], LINES).prompts_single == 1


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        (0, 16, "0"),
        (1, 15, "0 to 0.2"),
        (1, 4, "0.2 to 0.4"),
        (4, 6, "0.4 to 0.6"),
        (3, 2, "0.6 to 0.8"),
        (4, 1, "0.8 to 1"),
        (99, 1, "0.8 to 1"),
        (3, 0, "1"),
    ],
)
def test_success_histogram(right, wrong, name):
    summary = summarise(rewards(p=[1] * right + [0] * wrong), LINES)
    assert [bin for bin, number in summary.success.items() if number] == [name]


def test_reward_mean_takes_prompts_as_the_units():
    groups = {"a": [1, 0, 0], "b": [1, 1, 0.5], "c": [0, 0, 0]}
    summary = summarise(rewards(**groups), LINES)
    means = [statistics.mean(g) for g in groups.values()]
    assert summary.reward_mean == pytest.approx(statistics.mean(means))
    assert summary.reward_stderr == pytest.approx(statistics.stdev(means) / 3**0.5)
    # Uneven: m = 2/3, sums 1 and 1 of 1 and 2: Σ (S - n m)² = (1/3)² + (1/3)², stderr² = 2/1 · 2/9 / 9.
    uneven = summarise(rewards(a=[1, None], b=[1, 0]), LINES)
    assert uneven.reward_mean == pytest.approx(2 / 3)
    assert uneven.reward_stderr == pytest.approx((4 / 81) ** 0.5)
    assert summarise(rewards(a=[1, 0]), LINES).reward_stderr is None
    assert summarise(rewards(a=[None]), LINES).reward_mean is None


def test_duplicates_and_clashes():
    chat = [{"role": "assistant", "content": "x"}]
    episodes = [
        make(completion="x"),
        make(completion="x", reward=0.0),
        make(completion="x"),
        make(completion="y"),
        make("other", completion="x"),
        make("p", completion="x", prompt="another"),
        make("c", completion=chat, prompt=chat),
        make("c", completion=chat, prompt=chat),
    ]
    summary = summarise(episodes, LINES)
    assert summary.duplicates == 3
    assert summary.prompt_id_clashes == 1


def test_lengths_steps_and_turns():
    turns = [{"role": r, "content": c} for r, c in [("assistant", "a\nb"), ("user", "xxxxx"), ("assistant", "c")]]
    episodes = [
        make("1", completion="one. two\nthree", prompt="12345"),
        make("2", completion=turns, prompt=[{"role": "system", "content": "ss"}, {"role": "user", "content": "u"}]),
        make("3", completion="abcdef", steps=("ab", "cd", "ef"), prompt="1"),
    ]
    summary = summarise(episodes, StepRule((". ", "\n")))
    assert summary.prompt_characters == Distribution(mean=3.0, median=3.0, p95=4.8, max=5.0)
    assert summary.completion_characters.mean == 8.0  # 14, of the policy's turns 4, 6
    assert summary.completion_characters.p95 == pytest.approx(13.2)
    assert summary.steps == Distribution(mean=3.0, median=3.0, p95=3.0, max=3.0)
    assert summary.multi_turn == pytest.approx(1 / 3)
    assert (summary.completion_tokens, summary.total_tokens, summary.untokenised) == (None, None, 0)


def test_tokens_stored_or_made(byte_tokenizer):
    own = Tokens(np.arange(5, dtype=np.int32), np.array([False, False, True, False, True]))
    episodes = [make("1", tokens=own), make("2", prompt="abc", completion="de")]
    summary = summarise(episodes, LINES)
    assert summary.own_ids == 0.5
    assert summary.completion_tokens == Distribution(2.0, 2.0, 2.0, 2.0)
    assert summary.total_tokens == Distribution(5.0, 5.0, 5.0, 5.0)
    summary = summarise(episodes, LINES, byte_tokenizer)  # the second: abc de <eos>
    assert summary.completion_tokens == Distribution(2.5, 2.5, 2.95, 3.0)
    assert summary.total_tokens.max == 6.0
    assert summary.untokenised == 0


def test_text_that_the_tokenizer_loses_is_counted(byte_tokenizer):
    byte_tokenizer.chat_template = None
    chat = [{"role": "assistant", "content": "x"}]
    summary = summarise([make(completion=chat, prompt=chat), make(prompt="q p")], LINES, byte_tokenizer)
    assert summary.untokenised == 1
    assert summary.completion_tokens.max == 2.0


def test_it_reads_once_and_gives_plain_numbers():
    summary = summarise(iter(rewards(a=[1, 0])), LINES)
    assert json.loads(json.dumps(summary.to_dict())) == summary.to_dict()
    with pytest.raises(InputError, match="there are no episodes"):
        summarise([], LINES)
