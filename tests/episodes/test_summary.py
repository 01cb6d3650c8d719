import json
import math
import statistics
import tracemalloc
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.episodes import summary as summary_module
from stepcredit.episodes.episode import Episode, StopReason, Tokens
from stepcredit.episodes.measures import measures_of_episodes, measures_of_rows, outcome_of
from stepcredit.episodes.records import to_batch
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import StoredRows
from stepcredit.episodes.summary import summarise
from stepcredit.errors import InputError
from stepcredit.metrics.dataset import Distribution
from stepcredit.verdict import Verdict

LINES = StepRule()


def rows_of(episodes):
    return StoredRows(Path("a shard"), 0, to_batch(episodes))


def summary_of(episodes, rule=LINES, tokenizer=None):
    return summarise([rows_of([episode]) for episode in episodes], rule, tokenizer)


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
    summary = summary_of([make(**given)])
    shares = {name: getattr(summary, name) for name in ("right", "wrong", "undecided", "truncated")}
    assert shares == {**dict.fromkeys(shares, 0.0), outcome: 1.0}


def test_counts_and_what_teaches_nothing():
    summary = summary_of(
        rewards(right=[1, 1], wrong=[0, 0, 0], mixed=[0, 1], single=[1], open=[None, None], one_known=[None, 0]),
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
    assert summary_of([make(**steps, step_rewards=(1.0, 0.0))]).prompts_single == 0
    assert summary_of([make(**steps, step_rewards=(0.0, 0.0))]).prompts_single == 1


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
    summary = summary_of(rewards(p=[1] * right + [0] * wrong))
    assert [bin for bin, number in summary.success.items() if number] == [name]


def test_reward_mean_takes_prompts_as_the_units():
    groups = {"a": [1, 0, 0], "b": [1, 1, 0.5], "c": [0, 0, 0]}
    summary = summary_of(rewards(**groups))
    means = [statistics.mean(g) for g in groups.values()]
    assert summary.reward_mean == pytest.approx(statistics.mean(means))
    assert summary.reward_stderr == pytest.approx(statistics.stdev(means) / 3**0.5)
    # Uneven: m = 2/3, sums 1 and 1 of 1 and 2: Σ (S - n m)² = (1/3)² + (1/3)², stderr² = 2/1 · 2/9 / 9.
    uneven = summary_of(rewards(a=[1, None], b=[1, 0]))
    assert uneven.reward_mean == pytest.approx(2 / 3)
    assert uneven.reward_stderr == pytest.approx((4 / 81) ** 0.5)
    assert summary_of(rewards(a=[1, 0])).reward_stderr is None
    assert summary_of(rewards(a=[None])).reward_mean is None


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
    summary = summary_of(episodes)
    assert summary.duplicates == 3
    assert summary.prompt_id_clashes == 1


def test_lengths_steps_and_turns():
    turns = [{"role": r, "content": c} for r, c in [("assistant", "a\nb"), ("user", "xxxxx"), ("assistant", "c")]]
    episodes = [
        make("1", completion="one. two\nthree", prompt="12345"),
        make("2", completion=turns, prompt=[{"role": "system", "content": "ss"}, {"role": "user", "content": "u"}]),
        make("3", completion="abcdef", steps=("ab", "cd", "ef"), prompt="1"),
    ]
    summary = summary_of(episodes, StepRule((". ", "\n")))
    assert summary.prompt_characters == Distribution(mean=3.0, median=3.0, p95=4.8, max=5.0)
    assert summary.completion_characters.mean == 8.0  # 14, of the policy's turns 4, 6
    assert summary.completion_characters.p95 == pytest.approx(13.2)
    assert summary.steps == Distribution(mean=3.0, median=3.0, p95=3.0, max=3.0)
    assert summary.multi_turn == pytest.approx(1 / 3)
    assert (summary.completion_tokens, summary.total_tokens, summary.untokenised) == (None, None, 0)


def test_tokens_stored_or_made(byte_tokenizer):
    own = Tokens(np.arange(5, dtype=np.int32), np.array([False, False, True, False, True]))
    episodes = [make("1", tokens=own), make("2", prompt="abc", completion="de")]
    summary = summary_of(episodes)
    assert summary.own_ids == 0.5
    assert summary.completion_tokens == Distribution(2.0, 2.0, 2.0, 2.0)
    assert summary.total_tokens == Distribution(5.0, 5.0, 5.0, 5.0)
    summary = summary_of(episodes, tokenizer=byte_tokenizer)  # the second: abc de <eos>
    assert summary.completion_tokens == Distribution(2.5, 2.5, 2.95, 3.0)
    assert summary.total_tokens.max == 6.0
    assert summary.untokenised == 0


def test_text_that_the_tokenizer_loses_is_counted(byte_tokenizer):
    byte_tokenizer.chat_template = None
    chat = [{"role": "assistant", "content": "x"}]
    summary = summary_of([make(completion=chat, prompt=chat), make(prompt="q p")], tokenizer=byte_tokenizer)
    assert summary.untokenised == 1
    assert summary.completion_tokens.max == 2.0


def test_it_gives_plain_numbers():
    summary = summary_of(rewards(a=[1, 0]))
    assert json.loads(json.dumps(summary.to_dict())) == summary.to_dict()
    with pytest.raises(InputError, match="there are no episodes"):
        summarise([], LINES)


TEXTS = st.text(alphabet="ab. \n\t\u2028\x1cé", max_size=12)


@settings(max_examples=150)
@given(
    drawn=st.lists(
        st.fixed_dictionaries({
            "prompt": st.sampled_from(["q", "é q", "r"]),
            "completion": TEXTS,
            "reward": st.none() | st.sampled_from([0.0, 0.5, 0.51, 1.0, -2.0]),
            "verdict": st.none() | st.sampled_from(["right", "wrong", "undecided"]),
            "stop_reason": st.sampled_from(StopReason),
            "prompt_id": st.sampled_from("ab"),
            "metadata": st.sampled_from([{}, {"drawn": {"right": 3, "other": True}}, {"drawn": {}}, {"drawn": 1}]),
        }),
        min_size=1, max_size=6,
    ),
    rule=st.sampled_from([LINES, StepRule((". ", "\n")), StepRule(("b",)), StepRule(())]),
)  # fmt: skip
def test_columns_and_episodes_measure_the_same(drawn, rule):
    for row in drawn:
        row["verdict"] = row["verdict"] and Verdict(row["verdict"])
        row["reward"] = None if row["verdict"] is Verdict.UNDECIDED else row["reward"]
    rows = rows_of([Episode(**row) for row in drawn])
    by_columns, by_episodes = measures_of_rows(rows.batch, rule), measures_of_episodes(rows.episodes(), rule)
    assert by_columns is not None
    for one, other in zip(astuple(by_columns), astuple(by_episodes), strict=True):
        np.testing.assert_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("prompt", ""), ("prompt", None), ("completion", None), ("format", "xml"), ("reward", float("inf")),
        ("reward", float("nan")), ("verdict", "maybe"), ("verdict", "undecided"), ("stop_reason", "tired"),
        ("stop_reason", None), ("sample", -1), ("sample", None), ("metadata", "{"), ("metadata", None),
        ("steps", ["other"]), ("action_mask", [True]),
    ],
)  # fmt: skip
def test_a_row_that_is_no_episode_is_refused(column, value):
    batch = to_batch([make(), make()])
    field, at = batch.schema.field(column), batch.schema.get_field_index(column)
    bad = pa.array([batch.column(column)[0].as_py(), value], type=field.type)
    batch = pa.record_batch([bad if k == at else c for k, c in enumerate(batch.columns)], schema=batch.schema)
    if column == "action_mask":  # without ids it is not looked at
        assert summarise([StoredRows(Path("a shard"), 0, batch)], LINES).episodes == 2
        return
    with pytest.raises(InputError, match=r"^a shard: row 9: not a valid episode"):
        summarise([StoredRows(Path("a shard"), 7, batch)], LINES)


@pytest.mark.long
@pytest.mark.parametrize("samples", [1, 16])
def test_memory_is_some_bytes_a_response_and_a_prompt(samples, monkeypatch):
    monkeypatch.setattr(summary_module, "_PENDING", 512)

    def peak(parts):
        tracemalloc.start()
        summarise((rows_of(numbered(k)) for k in range(parts)), LINES)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    def numbered(part):
        places = range(256 * part, 256 * part + 256)
        return [make(f"prompt {k // samples}", float(k % 2), f"response {k}") for k in places]

    peak(1)  # what is imported when it is first used
    responses = 256 * 30
    assert peak(40) - peak(10) < 3 * (20 + 58 / samples) * responses


def test_counts_that_are_merged_in_pieces_are_those_of_one_piece(monkeypatch):
    episodes = rewards(a=[0.1, 0.2, 0.7], b=[None, 1, 0], c=[1], d=[0.3, 0.3]) * 3
    whole = summary_of(episodes)
    monkeypatch.setattr(summary_module, "_PENDING", 2)
    assert summary_of(episodes) == whole
    totals = [sum(e.reward for e in episodes if e.prompt_id == p and e.reward is not None) for p in "abcd"]
    assert whole.reward_mean == math.fsum(totals) / 24
