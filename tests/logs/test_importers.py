import datetime
import hashlib
import json
import tracemalloc
from decimal import Decimal

import numpy as np
import pytest

from stepcredit.episodes.episode import StopReason
from stepcredit.errors import InputError
from stepcredit.logs.columns import ImportRules
from stepcredit.logs.formats import Row
from stepcredit.logs.importers import EpisodeImporter, episode_from_row
from stepcredit.logs.sample_numbers import SampleNumbers
from stepcredit.verdict import Verdict


def user(text):
    return {"role": "user", "content": text}


def policy(text):
    return {"role": "assistant", "content": text}


PLAIN = {"prompt": "1+1=", "completion": "2", "reward": 1}
CHAT = [{"role": "system", "content": "s"}, user("u"), policy("OK"), user("go"), policy("done"), user("bye")]
STEPS = {"prompt": "q", "completions": ["a", "b\n", "c"], "labels": [True, 0, 0.5]}


def test_plain_text():
    episode = episode_from_row(PLAIN)
    assert (episode.prompt, episode.completion, episode.reward) == ("1+1=", "2", 1.0)
    assert isinstance(episode.reward, float)
    assert episode.prompt_id == hashlib.sha256(b"1+1=").hexdigest()[:16]
    assert (episode.sample, episode.stop_reason, episode.verdict) == (0, StopReason.UNKNOWN, None)
    assert (episode.steps, episode.step_rewards, episode.tokens, episode.metadata) == (None, None, None, {})


@pytest.mark.parametrize(
    ("outcome", "reward"),
    [
        ({"reward": 0.25}, 0.25),
        ({"reward": True}, 1.0),
        ({"reward": False, "label": True}, 0.0),
        ({"label": True}, 1.0),
        ({"label": 0}, 0.0),
        ({"label": 1.0, "reward": None}, 1.0),
        ({"label": "True"}, 1.0),
        ({"label": " false "}, 0.0),
        ({"label": "1"}, 1.0),
        ({"label": "0.0"}, 0.0),
        ({"reward": "0.25"}, 0.25),
        ({"reward": "TRUE"}, 1.0),
        ({"reward": np.float32(0.25)}, 0.25),
        ({"label": np.bool_(True)}, 1.0),
    ],
)
def test_outcomes(outcome, reward):
    episode = episode_from_row({"prompt": "q", "response": "", **outcome})
    assert episode.reward == reward
    assert episode.completion == ""


@pytest.mark.parametrize(
    ("word", "reward"),
    [("right", 1.0), ("Correct ", 1.0), ("WRONG", 0.0), ("incorrect", 0.0), ("yes", 1.0), ("No", 0.0), ("true", 1.0)],
)
def test_words_for_right_and_wrong(word, reward):
    row = {"prompt": "q", "completion": "a", "verdict of mine": word}
    assert episode_from_row(row, ImportRules({"label": "verdict of mine"})).reward == reward
    with pytest.raises(InputError, match="reward: 0 lies outside"):
        episode_from_row({**row, "verdict of mine": "wrong"}, ImportRules({"reward": "verdict of mine"}, (1.0, 5.0)))
    if word not in ("yes", "No"):
        assert episode_from_row(row, ImportRules({"reward": "verdict of mine"})).reward == reward


@pytest.mark.parametrize(("verdict", "reward"), [("right", 1.0), ("wrong", 0.0), ("undecided", None)])
def test_a_verdict_is_an_outcome(verdict, reward):
    assert episode_from_row({"prompt": "q", "completion": "a", "verdict": verdict}).reward == reward
    assert episode_from_row({"prompt": "q", "completion": "a", "verdict": "right", "reward": 0.5}).reward == 0.5


def test_text_becomes_chat_where_that_is_asked_for():
    rules = ImportRules(chat=True)
    plain = episode_from_row({"prompt": "2 + 3?", "completion": "5", "reward": 1, "system": "Add."}, rules)
    assert plain.prompt == [{"role": "system", "content": "Add."}, {"role": "user", "content": "2 + 3?"}]
    assert plain.completion == [{"role": "assistant", "content": "5"}]
    with pytest.raises(InputError, match="completions: a list of steps is plain text; import such rows without --chat"):
        episode_from_row(STEPS, rules)
    with pytest.raises(InputError, match="steps: are of plain text; import such rows without --chat"):
        episode_from_row({**PLAIN, "steps": ["2"]}, rules)
    with pytest.raises(InputError, match="the prompt is empty"):
        episode_from_row({**PLAIN, "prompt": ""}, rules)
    chat = {"prompt": [user("q")], "completion": "a", "reward": 1}
    same = [(e.prompt, e.completion, e.prompt_id) for e in (episode_from_row(chat, rules), episode_from_row(chat))]
    assert same[0] == same[1]
    assert episode_from_row(PLAIN).prompt_id != episode_from_row(PLAIN, rules).prompt_id


def test_what_was_mapped_already_stays_in_the_hint():
    row = {"question": "q", "completion": "a", "is_correct": "x"}
    with pytest.raises(InputError, match="another name: --columns prompt=question label=is_correct"):
        episode_from_row(row, ImportRules({"prompt": "question"}))


def test_plain_chat_drops_empty_keys():
    messages = [{**policy("a"), "tool_calls": None, "name": "x"}]
    episode = episode_from_row({"prompt": [user("q")], "completion": messages, "label": 0})
    assert episode.prompt == [user("q")]
    assert episode.completion == [{**policy("a"), "name": "x"}]
    same = episode_from_row({"prompt": [{"content": "q", "role": "user"}], "completion": messages, "label": 0})
    assert same.prompt_id == episode.prompt_id


def test_messages():
    episode = episode_from_row({"messages": CHAT, "reward": 1.0, "prompt": "beside"})
    assert episode.prompt == CHAT[:2]
    assert episode.completion == CHAT[2:]
    assert episode.metadata == {"prompt": "beside"}
    episode = episode_from_row({"messages": CHAT, "reward": 1.0, "prompt_messages": 4})
    assert episode.prompt == CHAT[:4]
    assert episode.completion == CHAT[4:]
    assert episode.metadata == {}


def test_a_complete_row_wins_over_messages():
    episode = episode_from_row({**PLAIN, "messages": CHAT})
    assert episode.prompt == "1+1="
    assert episode.metadata == {"messages": CHAT}


def test_stepwise():
    episode = episode_from_row(STEPS)
    assert episode.steps == ("a\n", "b\n", "c")
    assert episode.completion == "a\nb\nc"
    assert episode.step_rewards == (1.0, 0.0, 0.5)
    assert episode.reward == 0.0
    assert episode_from_row({**STEPS, "label": True}).reward == 1.0
    assert episode_from_row({**STEPS, "reward": 0.5}).reward == 0.5


def test_steps_and_their_rewards_beside_a_completion():
    given = {"steps": ["1", "2"], "step_rewards": [0, 1]}
    episode = episode_from_row({**PLAIN, "completion": "12", **given})
    assert (episode.steps, episode.step_rewards, episode.reward) == (("1", "2"), (0.0, 1.0), 1.0)
    assert episode_from_row({"messages": CHAT, "reward": 0, "step_rewards": [1]}).step_rewards == (1.0,)


def test_what_is_carried_over():
    given = {"prompt_id": 336, "sample": 3.0, "finish_reason": "length", "verdict": "wrong", "truncated": True}
    others = {"answer": "2", "solution": None, "level": [1, {"a": 2}], "source": "x"}
    episode = episode_from_row({**PLAIN, **given, **others, "stop_reason": None})
    assert (episode.prompt_id, episode.sample, episode.verdict) == ("336", 3, Verdict.WRONG)
    assert episode.stop_reason is StopReason.LENGTH
    assert episode.metadata == others


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"stop_reason": "stop"}, StopReason.STOP),
        ({"finish_reason": "max_tokens"}, StopReason.LENGTH),
        ({"truncated": True}, StopReason.LENGTH),
        ({"truncated": 0}, StopReason.STOP),
        ({"truncated": None}, StopReason.UNKNOWN),
        ({"stop_reason": "unknown", "truncated": True}, StopReason.LENGTH),
        ({"truncated": "true"}, StopReason.LENGTH),
        ({"finish_reason": "tool_calls"}, StopReason.STOP),
        ({"finish_reason": "tool-calls"}, StopReason.STOP),
        ({"finish_reason": "function_call"}, StopReason.STOP),
        ({"stop_reason": "tool_use"}, StopReason.STOP),
        ({"stop_reason": "stop_sequence"}, StopReason.STOP),
        ({"stop_reason": "end_turn"}, StopReason.STOP),
        ({"finish_reason": "eos_token"}, StopReason.STOP),
        ({"finish_reason": {"type": "stop", "matched": 151645}}, StopReason.STOP),
        ({"finish_reason": {"type": "length", "length": 128}}, StopReason.LENGTH),
        ({"finish_reason": "MAX_TOKENS"}, StopReason.LENGTH),
        ({"stop_reason": "model_context_window_exceeded"}, StopReason.LENGTH),
        ({"finish_reason": "tool_calls", "truncated": True}, StopReason.LENGTH),
        ({"finish_reason": "abort", "truncated": True}, StopReason.LENGTH),
        ({"finish_reason": "eos_token", "stop_reason": "stop"}, StopReason.STOP),
        ({"finish_reason": "length", "stop_reason": "unknown"}, StopReason.LENGTH),
    ],
)
def test_stop_reasons(given, expected):
    assert episode_from_row({**PLAIN, **given}).stop_reason is expected


def test_a_truncated_response_needs_no_outcome():
    for outcome in ({}, {"reward": None}, {"label": None, "verdict": None}):
        episode = episode_from_row({"prompt": "q", "completion": "a", "truncated": True, **outcome})
        assert (episode.reward, episode.truncated) == (None, True)
    assert episode_from_row({**PLAIN, "truncated": True}).reward == PLAIN["reward"]


@pytest.mark.parametrize("met", [151645, "</answer>", None])
def test_what_a_stop_reason_of_vllm_met_is_metadata(met):
    episode = episode_from_row({**PLAIN, "finish_reason": "stop", "stop_reason": met})
    assert episode.stop_reason is StopReason.STOP
    assert episode.metadata == ({} if met is None else {"stop_reason": met})


@pytest.mark.parametrize("cut", ["content_filter", "refusal", "abort", "error", "SAFETY", {"type": "abort"}])
def test_what_something_else_cut_is_undecided(cut):
    for more in ({}, {"reward": None}, {"verdict": "wrong"}):
        episode = episode_from_row({**PLAIN, "finish_reason": cut, **more})
        assert (episode.verdict, episode.reward, episode.stop_reason) == (
            Verdict.UNDECIDED, None, StopReason.UNKNOWN
        )  # fmt: skip
        assert episode.metadata["finish_reason"] == cut


def test_undecided_has_no_reward_whatever_the_row_says():
    for outcome in ({"reward": 0.0}, {"reward": None}, {"label": False}, {}):
        episode = episode_from_row({"prompt": "q", "completion": "a", "verdict": "undecided", **outcome})
        assert (episode.reward, episode.verdict, episode.metadata) == (None, Verdict.UNDECIDED, {})


def test_metadata_is_made_json():
    given = {
        "when": datetime.datetime(2024, 5, 1, 12), "price": Decimal("1.50"), "gap": float("nan"), "pair": (1, None)
    }  # fmt: skip
    assert episode_from_row({**PLAIN, **given}).metadata == {
        "when": "2024-05-01 12:00:00", "price": "1.50", "gap": None, "pair": [1, None]
    }  # fmt: skip


def test_other_names():
    rules = ImportRules({"prompt": "question", "completion": "response", "reward": "label", "prompt_id": "qid"})
    row = {"question": "q", "response": "a", "label": 0.5, "qid": 7, "prompt": "ignored"}
    episode = episode_from_row(row, rules)
    assert (episode.prompt, episode.completion, episode.reward, episode.prompt_id) == ("q", "a", 0.5, "7")
    assert episode.metadata == {"prompt": "ignored"}
    with pytest.raises(InputError, match="columns: no column 'qid'; the row has 'question', 'response', 'label'"):
        episode_from_row({"question": "q", "response": "a", "label": 1}, rules)
    with pytest.raises(InputError, match="columns: 'promt' is none of prompt, completion, response"):
        ImportRules({"promt": "question"})


BAD = [
    ({}, {"reward": None, "x": 1}, "reward: missing: expected a column reward .* the row has 'prompt', 'completion'"),
    ({}, {"reward": float("nan")}, "reward: nan is not a finite number"),
    ({}, {"reward": float("inf")}, "reward: inf is not a finite number"),
    ({}, {"reward": 10**400}, "reward: the number is too large"),
    ({}, {"reward": "good"}, "reward: must be a number, not the str 'good'"),
    ({}, {"reward": "1_0"}, "reward: must be a number, not the str '1_0'"),
    ({}, {"reward": "１"}, "reward: must be a number, not the str '１'"),
    ({}, {"reward": ""}, "reward: must be a number, not the str ''"),
    ({}, {"reward": "7"}, r"reward: 7 lies outside \[0, 1\]; widen it with --reward_range 0 7"),
    ({}, {"reward": "nan"}, "reward: nan is not a finite number"),
    ({}, {"reward": [0, 1]}, "reward: a list; if it is one a step or a turn: --columns step_rewards=reward"),
    ({}, {"reward": 3}, r"reward: 3 lies outside \[0, 1\]; widen it with --reward_range 0 3"),
    ({}, {"reward": -0.5}, r"reward: -0.5 lies outside \[0, 1\]; widen it with --reward_range -0.5 1"),
    ({}, {"reward": None, "label": 0.5}, "label: must be true, false, 1, 0, .*, not the float 0.5"),
    ({}, {"reward": None, "label": "good"}, "label: must be true, false, 1, 0, right, .*, not the str 'good'"),
    (
        {},
        {"reward": None, "label": "yes"},
        "label: 'yes' may be an answer; if it is the verdict: --columns label=label",
    ),
    ({}, {"completion": None}, "expected columns prompt and completion .* the row has 'prompt', 'completion'"),
    ({}, {"prompt": 7}, "prompt: must be text or a list of chat messages, not the int 7"),
    ({}, {"prompt": ""}, "the prompt is empty"),
    ({}, {"completion": [policy("a")]}, "prompt is text but completion is chat messages; make both"),
    ({}, {"prompt": [user("a")], "system": 3}, "system: must be text, not the int 3"),
    ({"reward": 1}, {"messages": CHAT, "system": "other"}, "system: says otherwise than the system message"),
    ({}, {"completion": [{"role": "assistant"}]}, r"completion\[0\]: a message needs a content that is text"),
    ({}, {"completion": [policy("a"), 1]}, r"completion\[1\]: every message needs a role, and a content"),
    ({}, {"completion": ["a", "b"]}, "completion: holds 2 texts; give each response a row of its own"),
    ({}, {"prompt": "[{'role': 'user', 'content': 'q'}]"}, "prompt: .* as Python prints them; .* json.dumps"),
    ({}, {"prompt": [{"role": "function", "content": "1"}]}, r"prompt\[0\]: a message needs a role of assistant, .*"),
    ({}, {"prompt": [{"from": "bard", "value": "1"}]}, r"prompt\[0\]: a message needs a role .* not the str 'bard'"),
    ({}, {"verdict": "maybe"}, "verdict: must be one of right, wrong, undecided, not the str 'maybe'"),
    ({}, {"stop_reason": "tired"}, r"stop_reason: 'tired' is no known end of a response; write stop \(the policy"),
    ({}, {"finish_reason": ["stop"]}, "finish_reason: .* is no known end"),
    ({}, {"stop_reason": 2}, "stop_reason: 2 is no known end"),
    ({}, {"finish_reason": "stop", "stop_reason": "length"}, "stop_reason: says otherwise than finish_reason"),
    ({}, {"finish_reason": "stop", "truncated": True}, "truncated: says otherwise than finish_reason"),
    ({}, {"truncated": "no"}, "truncated: must be true or false"),
    ({}, {"sample": -1}, "sample: must be a whole number from 0 on, not the int -1"),
    ({}, {"sample": True}, "sample: must be a whole number"),
    ({}, {"sample": 2**63}, "sample: must be a whole number"),
    ({}, {"sample": float("nan")}, "sample: must be a whole number"),
    ({}, {"prompt_id": 1.5}, "prompt_id: must be text or a whole number, not the float 1.5"),
    ({}, {"steps": ["1"]}, "steps: the steps, joined, must be the completion"),
    ({}, {"step_rewards": 1}, "step_rewards: must be a list of numbers"),
    ({}, {"blob": b"x"}, "blob: a bytes cannot be kept in the metadata"),
    ({}, {"format": "text", "ids": [1], "action_mask": [True]}, "a shard of stored episodes already"),
    (STEPS, {"labels": [1, float("nan"), 0]}, r"labels\[1\]: nan is not a finite number"),
    (STEPS, {"labels": [1, 0, 2]}, r"labels\[2\]: 2 lies outside \[0, 1\]; widen it with --reward_range 0 2"),
    (STEPS, {"labels": [1, 0]}, "labels: 2 labels for 3 steps"),
    (STEPS, {"labels": "1"}, "labels: must be a list of numbers, not the int 1"),
    (STEPS, {"labels": ["+", "-", "+"]}, r"labels\[0\]: must be a number, not the str '\+'"),
    (STEPS, {"completions": ["a", 1, "b"]}, "completions: must be a list of texts"),
    (STEPS, {"completions": [], "labels": []}, "labels: 0 labels for 0 steps"),
    (STEPS, {"prompt": [user("q")]}, "prompt: rows with completions and labels need a text prompt"),
    ({"reward": 1}, {"messages": "hello"}, "messages: must be a list of messages"),
    ({"reward": 1}, {"messages": [user("q")]}, "messages: no assistant message"),
    ({"reward": 1}, {"messages": [policy("a")]}, "prompt_messages: 0 of 1 messages cannot be the prompt"),
    ({"reward": 1}, {"messages": CHAT, "prompt_messages": 6}, "prompt_messages: 6 of 6 messages"),
    ({"reward": 1}, {"messages": CHAT, "prompt_messages": 5}, "completion: no assistant message"),
    ({"reward": 1}, {"messages": CHAT, "response": "a"}, "messages: stands beside response; .*prompt=messages"),
    ({"x": 1}, {}, "expected columns prompt and completion .* the row has 'x' .*--columns prompt=… completion=…"),
    ({"prompt": "q", "output": "a", "score": 1}, {}, r"other names: --columns completion=output reward=score\)"),
    (
        {"question": "q", "generation": "a", "is_correct": "yes"},
        {},
        "other names: --columns prompt=question completion=generation label=is_correct",
    ),
    ({"prompt": "q", "completion": "a", "score": 1}, {}, "reward: missing: .*another name: --columns reward=score"),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, {}, "chosen and rejected are a pair; write them as two rows"),
]


@pytest.mark.parametrize(("base", "change", "message"), BAD, ids=range(len(BAD)))
def test_bad_rows(base, change, message):
    row = {**(base or PLAIN), **change}
    with pytest.raises(InputError, match=message):
        episode_from_row(row)


def test_reward_range():
    rules = ImportRules(reward_range=(-1.0, 2.0))
    assert [episode_from_row({**PLAIN, "reward": r}, rules).reward for r in (-1, 2)] == [-1.0, 2.0]
    with pytest.raises(InputError, match=r"outside \[-1, 2\]"):
        episode_from_row({**PLAIN, "reward": 2.1}, rules)
    for bad in ((1.0, 1.0), (2.0, 1.0), (0.0, float("nan"))):
        with pytest.raises(InputError, match="reward_range: give the lowest and then the highest"):
            ImportRules(reward_range=bad)


def test_samples_are_numbered_within_their_prompt():
    stored = SampleNumbers()
    for sample in (0, 3, 1):
        assert stored.add("old", sample, f"out: episode {sample}") is None
    importer = EpisodeImporter(ImportRules(), stored)
    rows = [{"prompt_id": "a"}, {"prompt_id": "b"}, {"prompt_id": "a"}, {"prompt_id": "old"}]
    rows += [{"prompt_id": "a", "sample": 7}, {"prompt_id": "a"}, {"prompt_id": "a", "sample": 2}, {"prompt_id": "a"}]
    made = [importer.episode(Row(f"f:{k}", data={**PLAIN, **row})) for k, row in enumerate(rows)]
    assert [e.sample for e in made] == [0, 0, 1, 4, 7, 8, 2, 9]


@pytest.mark.parametrize("first", [0, 1, 5])
def test_a_sample_that_stands_twice_is_told_with_both_places(first):
    importer = EpisodeImporter(ImportRules())
    for line, sample in enumerate([first, 3, 4], 1):
        importer.episode(Row(f"a.jsonl:{line}", data={**PLAIN, "prompt_id": "p", "sample": sample}))
    twice = {**PLAIN, "prompt_id": "p", "completion": "other", "sample": first}
    with pytest.raises(InputError, match=rf"^b.parquet: row 7: sample: {first} of prompt 'p' stands at a.jsonl:1 alr"):
        importer.episode(Row("b.parquet: row 7", data=twice))
    with pytest.raises(
        InputError, match=r"^b.parquet: row 8: sample: 3 of prompt 'p' stands at a.jsonl:2 already; numb"
    ):
        importer.episode(Row("b.parquet: row 8", data={**twice, "sample": 3}))
    assert importer.episode(Row("b.jsonl:1", data={**twice, "prompt_id": "q"})).sample == first
    assert importer.episode(Row("b.jsonl:2", data={**PLAIN, "prompt_id": "p"})).sample == max(first, 4) + 1


@pytest.mark.long
@pytest.mark.parametrize("samples", [1, 16])
def test_sample_numbers_take_few_bytes_a_row_and_a_prompt(samples):
    rows = 9_600
    places = [(f"prompt {row // samples}", samples - 1 - row % samples, f"logs.jsonl:{row}") for row in range(rows)]
    tracemalloc.start()
    numbers = SampleNumbers()
    assert {numbers.add(*place) for place in places} == {None}
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 36 * (rows + rows // samples) + 40_000  # the smallest tables
    for row in (0, rows // 2, rows - 1):
        assert numbers.add(*places[row][:2], "x:1") == places[row][2]
        assert numbers.following(places[row][0]) == samples


def test_a_bad_row_is_placed_and_takes_no_number():
    importer = EpisodeImporter(ImportRules())
    with pytest.raises(InputError, match=r"^logs.jsonl:12: reward: 3 lies outside \[0, 1\]") as raised:
        importer.episode(Row("logs.jsonl:12", data={**PLAIN, "reward": 3}))
    assert raised.value.where == "logs.jsonl:12"
    with pytest.raises(InputError, match=r"^f:1: empty line$"):
        importer.episode(Row("f:1", error=InputError("empty line", "f:1")))
    assert importer.episode(Row("f:2", data=PLAIN)).sample == 0


def test_csv_cells():
    row = {"prompt": "[1] is", "completion": "7", "reward": "0.5", "sample": "2", "truncated": "False"}
    row |= {"prompt_id": "", "verdict": "", "answer": "7", "note": ""}
    episode = episode_from_row(row, text_cells=True)
    assert (episode.prompt, episode.completion, episode.reward, episode.sample) == ("[1] is", "7", 0.5, 2)
    assert (episode.stop_reason, episode.verdict) == (StopReason.STOP, None)
    assert episode.prompt_id == hashlib.sha256(b"[1] is").hexdigest()[:16]
    assert episode.metadata == {"answer": "7", "note": ""}


def test_csv_cells_with_json():
    chat = {"prompt": '[{"role": "user", "content": "q"}]', "label": "TRUE"}
    chat["completion"] = ' [{"role": "assistant", "content": "a"}]'
    episode = episode_from_row(chat, text_cells=True)
    assert (episode.prompt, episode.completion, episode.reward) == ([user("q")], [policy("a")], 1.0)
    steps = {"prompt": "q", "completions": '["a", "b"]', "labels": "[true, 0]", "completion": ""}
    assert episode_from_row(steps, text_cells=True).step_rewards == (1.0, 0.0)
    assert episode_from_row({"prompt": "q", "completion": "", "label": "0"}, text_cells=True).completion == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": ""}, "reward: missing"),
        ({"reward": "high"}, "reward: must be a number, not the str 'high'"),
        ({"reward": "nan"}, "reward: nan is not a finite number"),
        ({"prompt": ""}, "expected columns prompt and completion .*, with values; the row has 'prompt'"),
        ({"sample": "x"}, "sample: must be a whole number"),
        ({"messages": "[1", "prompt": ""}, "messages: stands beside completion"),
        ({"completions": "[1", "labels": "[1]"}, "completions: must be a list of texts, not the str '.1'"),
    ],
)
def test_bad_csv_cells(change, message):
    row = {"prompt": "q", "completion": "a", "reward": "1", **change}
    with pytest.raises(InputError, match=message):
        episode_from_row(row, text_cells=True)


# ---- chat of other kinds -----------------------------------------------------------------------------


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def test_parts_of_text_are_joined():
    given = [{"role": "user", "content": parts("1+1", "=")}, {"role": "assistant", "content": parts("2")}]
    same = [user("1+1="), policy("2")]
    one, other = (episode_from_row({"messages": chat, "reward": 1}) for chat in (given, same))
    assert (one.prompt, one.completion, one.prompt_id) == (other.prompt, other.completion, other.prompt_id)
    assert one.prompt == [user("1+1=")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "a part of the content is the str 'image_url'; only text"),
        ([*parts("a"), {"type": "tool_use", "name": "f"}], "a part of the content is the str 'tool_use'"),
        ([{"text": "a"}], "a part of the content is the dict"),
        (["a"], "a part of the content is the str 'a'"),
        ([{"type": "text", "text": None}], "a part of the content is the str 'text'"),
        ([], "a message needs a content that is text"),
        ({"text": "a"}, "a message needs a content that is text, not the dict"),
    ],
)
def test_other_parts_are_refused_by_name(content, message):
    row = {"messages": [user("q"), {"role": "assistant", "content": content}], "reward": 1}
    with pytest.raises(InputError, match=rf"messages\[1\]: {message}"):
        episode_from_row(row)


def test_conversations_of_sharegpt():
    chat = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    episode = episode_from_row({"conversations": chat, "reward": 1})
    assert episode.prompt == [{"role": "system", "content": "s"}, user("q")]
    assert episode.completion == [policy("a")]
    assert episode.metadata == {}
    assert episode_from_row({**PLAIN, "conversations": chat}).metadata == {"conversations": chat}
    with pytest.raises(InputError, match="messages: stands beside completion"):
        episode_from_row({"conversations": chat, "completion": "a", "reward": 1})
    renamed = episode_from_row({"dialog": chat, "reward": 1}, ImportRules({"messages": "dialog"}))
    assert renamed.completion == [policy("a")]


@pytest.mark.parametrize("as_text", [False, True])
def test_lists_as_json_text_are_lists(as_text):
    def cell(value):
        return json.dumps(value) if as_text else value

    assert episode_from_row({"messages": cell(CHAT), "reward": 1}).prompt == CHAT[:2]
    episode = episode_from_row({"prompt": "q", "completions": cell(["a", "b"]), "labels": cell(["True", 0])})
    assert (episode.steps, episode.step_rewards) == (("a\n", "b"), (1.0, 0.0))


CALL = {"type": "function", "id": "1", "function": {"name": "f", "arguments": {"x": 1}}}


@pytest.mark.parametrize(
    "calls",
    [
        [CALL],
        json.dumps([CALL]),
        [json.dumps(CALL)],
        [{**CALL, "function": {"name": "f", "arguments": '{"x": 1}'}}],
    ],
)
def test_tool_calls_and_their_arguments_may_be_json_text(calls):
    chat = [user("q"), {"role": "assistant", "content": None, "tool_calls": calls}]
    (message,) = episode_from_row({"messages": chat, "reward": 1}).completion
    assert message == {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tool_calls": "f(1)"}, "tool_calls must be a list of calls"),
        ({"tool_calls": [{"function": {}}]}, "tool_calls must be a list of calls"),
        ({"function_call": {"name": "f"}}, "function_call is read no more; write it as one of tool_calls"),
    ],
)
def test_tool_calls_that_are_none(change, message):
    with pytest.raises(InputError, match=rf"messages\[1\]: {message}"):
        episode_from_row({"messages": [user("q"), {**policy("a"), **change}], "reward": 1})


def test_a_thought_by_its_newer_name():
    chat = [user("q"), {**policy("a"), "reasoning": "hm"}]
    assert episode_from_row({"messages": chat, "reward": 1}).completion == [{**policy("a"), "reasoning_content": "hm"}]


def test_text_after_a_chat_prompt_is_the_message_of_the_assistant():
    episode = episode_from_row({"prompt": [user("q")], "response": "a", "reward": 1})
    assert (episode.prompt, episode.completion) == ([user("q")], [policy("a")])
    rules = ImportRules({"prompt": "messages"})
    assert episode_from_row({"messages": [user("q")], "response": "a", "reward": 1}, rules).completion == [policy("a")]


def test_a_system_text_beside_chat_is_its_first_message():
    chat = [user("q"), policy("a")]
    said = [{"role": "system", "content": "be brief"}, user("q")]
    for row in ({"messages": chat}, {"prompt": chat[:1], "completion": chat[1:]}):
        episode = episode_from_row({**row, "reward": 1, "system": "be brief"})
        assert (episode.prompt, episode.completion, episode.metadata) == (said, chat[1:], {})
        assert episode_from_row({**row, "reward": 1, "system": " "}).prompt == chat[:1]
    assert episode_from_row({"messages": [*said, policy("a")], "reward": 1, "system": "be brief"}).prompt == said
    given = {"messages": chat, "prompt_messages": 1, "reward": 1, "system": "be brief"}
    assert episode_from_row(given).prompt == said
    assert episode_from_row({**PLAIN, "system": "prod"}).metadata == {"system": "prod"}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("given", [[TOOL], json.dumps([TOOL]), [json.dumps(TOOL)]])
def test_tools_stay_with_the_chat_and_make_another_prompt(given):
    chat = {"messages": CHAT, "reward": 1}
    episode = episode_from_row({**chat, "tools": given})
    assert (episode.tools, episode.metadata) == ((TOOL,), {})
    assert episode.prompt_id != episode_from_row(chat).prompt_id
    beside = {"prompt": [user("q")], "completion": [policy("a")], "reward": 1, "tools": given}
    assert episode_from_row(beside).tools == (TOOL,)
    assert episode_from_row({**PLAIN, "tools": given}).metadata == {"tools": given}


def test_no_tools_and_none_that_are():
    for none in ([], None, "", "[]"):
        assert episode_from_row({"messages": CHAT, "reward": 1, "tools": none}).tools is None
    for bad in (["calculator"], "calculator", [{"description": "d"}], {"name": "f"}):
        with pytest.raises(InputError, match="tools: must be a list of descriptions of tools, with a name each, not"):
            episode_from_row({"messages": CHAT, "reward": 1, "tools": bad})


def test_rows_with_arrays():
    chat = np.array([user("q"), policy("a")], dtype=object)
    episode = episode_from_row({"messages": chat, "reward": np.float64(1), "sample": np.int64(3), "x": np.arange(2)})
    assert (episode.prompt, episode.sample, episode.metadata) == ([user("q")], 3, {"x": [0, 1]})


def test_python_lists_in_csv_are_told():
    chat = {"messages": "[{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}]", "reward": "1"}
    with pytest.raises(InputError, match=r"messages: .* as Python prints them; write them with json\.dumps"):
        episode_from_row(chat, text_cells=True)
