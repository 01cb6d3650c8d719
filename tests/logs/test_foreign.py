"""Log files of other tools. Where each shape comes from:

- batches: vllm/entrypoints/openai/run_batch.py (BatchRequestOutput) and OpenAI's batch guide; written by hand.
- groups: NeMo-RL's PreferenceDataset and the OAPLDataset of its pull request 3825; written by hand.
- verifiers: `state_to_output` of verifiers/utils/save_utils.py, and `Trace` version 1 of verifiers/v1/trace.py; written
  by hand from these. samples/verifiers-traces.jsonl is written by `write_episode` of verifiers 0.4.0, from made-up
  messages: a right response with a judge's trace beside it, a wrong one, one that was cut, one that failed at once.
- Inspect: samples/inspect.eval and inspect-tools.eval are written by inspect-ai 0.3.285 with mockllm/model; the others
  by hand.
"""

import json
import zipfile
from pathlib import Path

import pytest

from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.logs.foreign import inspect_logs
from stepcredit.logs.foreign.log_files import read_logs
from stepcredit.logs.grade_logs import GradeConfig, grade_rows
from stepcredit.logs.import_logs import ImportConfig, import_logs

SAMPLES = Path(__file__).parent / "samples"
ASKED = [{"role": "user", "content": "2 + 3?"}]


def said(text):
    return [{"role": "assistant", "content": text}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def imported(tmp_path, *files, **given):
    report = import_logs(ImportConfig([str(f) for f in files], str(tmp_path / "out"), **given))
    return report, [
        (e.completion if isinstance(e.completion, str) else e.completion[0]["content"], e.reward, str(e.stop_reason))
        for e in load_episodes(tmp_path / "out")
    ]


def test_every_completion_of_a_group_is_a_sample(tmp_path):
    items = [{"completion": said(str(k)), "reward": k / 2, "reference_logprob": -1.0, "rank": k} for k in range(3)]
    file = write(tmp_path / "a.jsonl", [{"context": ASKED, "completions": items}])
    _, read = imported(tmp_path, file)
    assert read == [(str(k), k / 2, "unknown") for k in range(3)]
    assert [e.sample for e in load_episodes(tmp_path / "out")] == [0, 1, 2]


def test_bad_completions_are_bad_rows_of_their_own(tmp_path):
    items = [{"completion": said("a"), "reward": 1}, "b", {"completion": said("c"), "rank": 0}]
    file = write(tmp_path / "a.jsonl", [{"context": ASKED, "completions": items}])
    with pytest.raises(InputError, match=r"a\.jsonl:1: completions\[1\]: must be an object with a completion"):
        imported(tmp_path, file)
    assert not (tmp_path / "out").exists()
    report, read = imported(tmp_path, file, skip_bad=True)
    assert (report.rows, report.bad, read) == (3, 2, [("a", 1.0, "unknown")])


def rollout(**given):
    row = {
        "example_id": 0,
        "prompt": ASKED,
        "completion": said("5"),
        "reward": 0.0,
        "error": None,
        "is_truncated": False,
    }
    return {**row, "is_completed": True, "metrics": {}, "timing": {}, **given}


def test_a_failed_rollout_of_verifiers_is_undecided_and_a_cut_one_truncated(tmp_path):
    failed = {"error": "ModelError", "error_chain_repr": "", "error_chain_str": ""}
    call = {"id": "c", "name": "add", "arguments": '{"a": 2}'}
    rows = [
        rollout(reward=1.0, tool_defs=[{"name": "add", "description": "", "parameters": {}}]),
        rollout(completion=[{"role": "assistant", "content": "x", "tool_calls": [call]}, *said("y")]),
        rollout(error=failed, completion=None),
        rollout(is_truncated=True),
    ]
    report, read = imported(tmp_path, write(tmp_path / "results.jsonl", rows))
    assert read == [("5", 1.0, "unknown"), ("x", 0.0, "unknown"), ("", None, "unknown"), ("5", 0.0, "length")]
    assert report.undecided == 1
    first, second, *_ = load_episodes(tmp_path / "out")
    assert first.tools[0]["function"]["name"] == "add"
    assert second.completion[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 2}}


def trace(nodes, **given):
    reward = {"correct": {"score": 1.0, "weight": 0.5}, "short": {"score": 0.5, "weight": 1.0}}
    return {"version": 1, "id": "t", "task": {"type": "T"}, "nodes": nodes, "rewards": reward, "ok": True, **given}


def node(parent, role, content, sampled=False, **given):
    return {"parent": parent, "message": {"role": role, "content": content}, "sampled": sampled, **given}


def test_every_path_of_a_trace_is_a_response_with_the_weighted_reward(tmp_path):
    nodes = [
        node(None, "user", "q"),
        node(0, "assistant", "a", True),
        node(0, "assistant", "b", True, advantages=[0.1]),
    ]
    tried = {"semantic_parents": [{"node": 1, "type": "compaction_attempt"}]}
    rows = [
        trace(nodes),
        trace(nodes[:2], stop_condition="max_turns"),
        trace(nodes[:2], ok=False, errors=[{"type": "E", "message": ""}]),
        trace(nodes[:1], ok=False, rewards={}),
        trace([*nodes[:2], node(0, "assistant", "c", True, **tried)]),
        trace(nodes[:2], rewards={"correct": None}),
    ]
    report, read = imported(tmp_path, write(tmp_path / "traces.jsonl", rows))
    unknown = "unknown"
    assert read == [("a", 1.0, unknown), ("b", 1.0, unknown), ("a", 1.0, "length"), ("a", None, unknown),
                    ("", None, unknown), ("a", 1.0, unknown), ("a", None, unknown)]  # fmt: skip
    assert report.undecided == 3


def test_episodes_that_verifiers_wrote(tmp_path):
    report, _ = imported(tmp_path, SAMPLES / "verifiers-traces.jsonl", reward_range=[0.0, 1.5])
    right, wrong, cut, failed = load_episodes(tmp_path / "out")
    assert (report.episodes, report.undecided) == (4, 1)
    assert [(e.reward, e.stop_reason) for e in (right, wrong, cut, failed)] == [
        (1.5, StopReason.UNKNOWN), (0.5, StopReason.UNKNOWN), (0.5, StopReason.LENGTH), (None, StopReason.UNKNOWN)
    ]  # fmt: skip
    assert [m["role"] for m in right.prompt] == ["system", "user"]
    assert [m["role"] for m in right.completion] == ["assistant", "tool", "assistant"]
    assert right.completion[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"x": 0, "y": 3}}
    assert right.tools[0]["function"]["parameters"]["required"] == ["x", "y"]
    assert (failed.prompt[-1]["content"], failed.completion[0]["content"]) == ("What is 3 + 3?", "")


def test_episodes_that_failed_are_undecided_and_judges_are_left_out(tmp_path):
    nodes = [node(None, "user", "q"), node(0, "assistant", "a", True)]
    tools = [{"name": "add", "parameters": {}}]
    judge = trace(nodes, agent={"trainable": False})
    policy = trace([{**nodes[0], "tools": None}, nodes[1]], agent={"trainable": True}, tools=tools)
    task = {"data": {"prompt": [{"role": "user", "content": "q"}], "system_prompt": "s"}}
    rows = [
        {"task": {}, "ok": True, "traces": [policy, judge, trace(nodes)]},
        {"task": {}, "ok": False, "traces": [policy]},
        {"task": task, "ok": False, "traces": [judge]},
    ]
    _, read = imported(tmp_path, write(tmp_path / "traces.jsonl", rows))
    assert [(text, reward) for text, reward, _ in read] == [("a", 1.0), ("a", 1.0), ("a", None), ("", None)]
    episodes = list(load_episodes(tmp_path / "out"))
    assert [m["content"] for m in episodes[3].prompt] == ["s", "q"]
    assert episodes[0].tools[0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"ok": True, "traces": ["x"]}, r"traces\[0\]: must be an object with nodes"),
        ({"ok": False, "traces": [], "task": {"data": {"prompt": {}}}}, "nodes: failed before there was a message"),
        ({"ok": False, "traces": []}, "nodes: failed before there was a message, and its task has no prompt"),
        ({"ok": True, "traces": []}, "traces: no trace of an agent that is trained"),
    ],
)
def test_broken_episodes_are_bad_rows(tmp_path, row, says):
    with pytest.raises(InputError, match=r"a\.jsonl:1: " + says):
        imported(tmp_path, write(tmp_path / "a.jsonl", [{"task": {"data": {}}, **row}]))


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([node(0, "user", "q")], r"nodes\[0\]: the parent must be an earlier node"),
        ([node(None, "user", "q"), node(1, "user", "q")], r"nodes\[1\]: the parent"),
        (["x"], r"nodes\[0\]: must be an object"),
        ([node(None, "user", "q")], "no message was sampled"),
        ([node(None, "user", "q"), node(0, "assistant", "a", True), node(1, "assistant", "b")], "was not sampled"),
    ],
)
def test_broken_graphs_are_bad_rows(tmp_path, nodes, says):
    with pytest.raises(InputError, match=r"a\.jsonl:1: .*" + says):
        imported(tmp_path, write(tmp_path / "a.jsonl", [trace(nodes)]))


def answered(name, *choices, **given):
    body = {"choices": [{"index": k, "finish_reason": "stop", **choice} for k, choice in enumerate(choices)]}
    return {"id": "b", "custom_id": name, "response": {"status_code": 200, "body": body}, "error": None, **given}


def message(text, **given):
    return {"message": {"role": "assistant", "content": text, "refusal": None}, **given}


def requests(tmp_path, *names):
    rows = [
        {"custom_id": n, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": ASKED}} for n in names
    ]
    return write(tmp_path / "requests.jsonl", rows)


def test_a_batch_is_joined_graded_and_imported(tmp_path):
    responses = [
        answered("a", message("#### 5"), message("#### 6"), message("#### ", finish_reason="length")),
        answered("b", message(None, finish_reason="content_filter")),
        answered("c", response=None, error={"message": "down"}),
        answered("d", response={"status_code": 500, "body": {"error": "x"}}),
    ]
    file = write(tmp_path / "out.jsonl", responses)
    golds = write(tmp_path / "golds.jsonl", [{"custom_id": name, "answer": "5"} for name in "abcd"])
    graded = tmp_path / "graded.jsonl"
    grade_rows(GradeConfig(file, joined=[golds, requests(tmp_path, *"abcd")], output=str(graded)))
    rows = [json.loads(line) for line in graded.read_text().splitlines()]
    assert [row["reward"] for row in rows] == [1.0, 0.0, None, None, None, None]
    assert [row["verdict"] for row in rows] == ["right", "wrong", None, "undecided", "undecided", "undecided"]
    report, read = imported(tmp_path, graded)
    assert [reward for _, reward, _ in read] == [1.0, 0.0, None, None, None, None]
    assert (report.episodes, report.undecided) == (6, 3)


def test_a_batch_with_given_rewards_is_imported_in_any_order_of_files(tmp_path):
    file = write(tmp_path / "out.jsonl", [answered("a", message("5"))])
    rewards = write(tmp_path / "rewards.jsonl", [{"custom_id": "a", "reward": 1}])
    assert imported(tmp_path, rewards, file, requests(tmp_path, "a"))[1] == [("5", 1.0, "stop")]


def test_text_completions_of_a_batch(tmp_path):
    rows = [{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "2 + 3 ="}, "reward": 1}]
    file = write(tmp_path / "out.jsonl", [answered("a", {"text": " 5"})])
    assert imported(tmp_path, file, write(tmp_path / "in.jsonl", rows))[1] == [(" 5", 1.0, "stop")]


def test_flaws_of_a_batch_name_file_and_line(tmp_path):
    file = write(tmp_path / "out.jsonl", [answered("a", message("5")), answered("z", message("5"))])
    with pytest.raises(InputError, match=r"out\.jsonl:1: there is no request with custom_id .*request file"):
        imported(tmp_path, file)
    rewards = write(tmp_path / "r.jsonl", [{"custom_id": "a", "reward": 1}])
    with pytest.raises(InputError, match=r"out\.jsonl:2: there is no request with custom_id the str 'z'"):
        imported(tmp_path, file, rewards, requests(tmp_path, "a"))
    with pytest.raises(InputError, match=r"requests\.jsonl:2: custom_id 'a' has a prompt already"):
        imported(tmp_path, file, requests(tmp_path, "a", "a"))
    embeddings = write(tmp_path / "e.jsonl", [answered("a", response={"status_code": 200, "body": {"data": []}})])
    with pytest.raises(InputError, match=r"e\.jsonl:1: response\.body: no choices"):
        imported(tmp_path, embeddings, requests(tmp_path, "a"))


def sample(**given):
    messages = [{"role": "user", "content": "2 + 3?", "source": "input"}, *said("5")]
    output = {"choices": [{"message": said("5")[0], "stop_reason": "stop"}]}
    score = {"match": {"value": "C"}}
    return {"id": 1, "epoch": 1, "input": "2 + 3?", "target": "5", "messages": messages, "output": output,
            "scores": score, **given}  # fmt: skip


def log(path, samples):
    path.write_text(json.dumps({"version": 2, "status": "success", "eval": {"task": "t"}, "samples": samples}))
    return path


def test_scores_limits_and_errors_of_inspect(tmp_path):
    scored = [sample(scores={"match": {"value": v}}) for v in ("C", "P", "I", "N", True, 0.25, float("nan"))]
    others = [
        sample(error={"message": "x"}),
        sample(error={"message": "x"}, messages=[]),
        sample(limit={"type": "token", "limit": 9}),
        sample(limit={"type": "operator", "limit": 1}),
        sample(output={"choices": [{"stop_reason": "content_filter"}]}, scores={"match": {"value": "I"}}),
    ]
    report, read = imported(tmp_path, log(tmp_path / "log.json", scored + others))
    assert [reward for _, reward, _ in read] == [1.0, 0.5, 0.0, 0.0, 1.0, 0.25, None, None, None, 1.0, None, None]
    assert read[9][2] == "length"
    assert report.undecided == 5


def test_several_scorers_of_inspect_are_chosen_by_name(tmp_path):
    file = log(tmp_path / "log.json", [sample(scores={"match": {"value": "I"}, "judge": {"value": {"style": 1}}})])
    with pytest.raises(InputError, match=r"log\.json: sample 1: reward: missing.*'match', 'judge\.style'"):
        imported(tmp_path, file)
    assert imported(tmp_path, file, columns=["reward=judge.style"])[1] == [("5", 1.0, "stop")]


def test_only_the_chosen_scorer_of_inspect_decides(tmp_path):
    file = log(tmp_path / "log.json", [sample(scores={"match": {"value": "I"}, "judge": {"value": None}})])
    for scorer, reward in (("match", 0.0), ("judge", None)):
        (tmp_path / scorer).mkdir()
        report, read = imported(tmp_path / scorer, file, columns=[f"reward={scorer}"])
        assert (report.undecided, read) == (reward is None, [("5", reward, "stop")])


def test_attachments_reasoning_and_calls_of_inspect(tmp_path):
    call = {"id": "c", "function": "add", "arguments": {"a": 2}, "type": "function"}
    parts = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "attachment://k"}]
    messages = [
        {"role": "user", "content": "attachment://q"},
        {"role": "assistant", "content": parts, "tool_calls": [call], "source": "generate"},
        {"role": "tool", "content": "5", "tool_call_id": "c", "function": "add"},
    ]
    imported(tmp_path, log(tmp_path / "log.json", [sample(messages=messages, attachments={"k": "call", "q": "2?"})]))
    (episode,) = load_episodes(tmp_path / "out")
    assert episode.prompt[0]["content"] == "2?"
    assert episode.completion[0]["reasoning_content"] == "hm"
    assert episode.completion[0]["content"] == "call"
    assert episode.completion[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 2}}


def test_tools_of_inspect_are_those_of_the_first_call(tmp_path):
    tool = {"name": "add", "description": "attachment://d", "parameters": {"properties": {"a": {"type": "integer"}}}}
    calls = [{"event": "model", "tools": tools} for tools in ([tool], [], "none")]
    events = [{"event": "state"}, "x", *calls]
    samples = [
        sample(events=events, attachments={"d": "long"}),
        sample(events=events[:2], id=2),
        sample(events=calls[1:], id=3),
        sample(events=calls[2:], id=4),
    ]
    imported(tmp_path, log(tmp_path / "log.json", samples))
    episodes = load_episodes(tmp_path / "out")
    assert episodes[0].tools == ({"type": "function", "function": {**tool, "description": "long"}},)
    assert [e.tools for e in episodes[1:]] == [None, None, None]
    with pytest.raises(InputError, match=r"sample 1: attachments: attachment://d is not among"):
        imported(tmp_path / "2", log(tmp_path / "log.json", [sample(events=events)]))


def packed(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_a_damaged_sample_of_an_eval_log_is_one_bad_row(tmp_path):
    good = json.dumps(sample())
    file = packed(tmp_path / "a.eval", {"samples/1_epoch_1.json": good, "samples/2.json": "{", "header.json": "{}"})
    with pytest.raises(InputError, match=r"a\.eval: sample 2: invalid JSON"):
        imported(tmp_path, file)
    report, read = imported(tmp_path, file, skip_bad=True)
    assert (report.rows, report.bad, read) == (2, 1, [("5", 1.0, "stop")])


def test_a_sample_that_unpacks_to_too_much_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_logs, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="sample 1: more than 100 bytes"):
        imported(tmp_path, packed(tmp_path / "a.eval", {"samples/1.json": " " * 1000}))


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 100])
def test_a_damaged_eval_log_is_refused(tmp_path, content):
    (tmp_path / "a.eval").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.eval: no log of Inspect, or a damaged one"):
        imported(tmp_path, tmp_path / "a.eval")
    assert not (tmp_path / "out").exists()


def test_a_log_that_inspect_wrote(tmp_path):
    file = SAMPLES / "inspect.eval"
    rows = [row for source in read_logs([file]) for row in source]
    assert len(rows) == 4
    assert not any(row.error for row in rows)
    assert {row.data["prompt"][0]["content"] for row in rows} <= {"What is 2 + 3?", "What is 3 * 3?"}
    report, read = imported(tmp_path, file)
    assert report.episodes == report.rows == len(rows)
    assert ("2 + 3 = 5\nANSWER: 5", 1.0, "stop") in read


def test_a_log_with_tools_that_inspect_wrote(tmp_path):
    imported(tmp_path, SAMPLES / "inspect-tools.eval")
    episodes = load_episodes(tmp_path / "out")
    assert [(e.completion[-1]["content"], e.reward) for e in episodes] == [("ANSWER: 5", 1.0), ("ANSWER: 8", 0.0)]
    for episode in episodes:
        (tool,) = episode.tools
        assert tool["function"]["name"] == "add"
        assert tool["function"]["description"].startswith("Add two whole numbers")
        assert tool["function"]["parameters"]["required"] == ["x", "y"]
        assert [m["role"] for m in episode.completion] == ["assistant", "tool", "assistant"]
        assert episode.completion[0]["tool_calls"][0]["function"]["arguments"]["y"] == 3


def test_damaged_bytes_of_a_real_log_never_pass_as_other_samples(tmp_path):
    content = (SAMPLES / "inspect.eval").read_bytes()
    whole = [row.data for row in read_logs([SAMPLES / "inspect.eval"])[0]]
    for at in range(40, len(content), len(content) // 40):
        file = tmp_path / "a.eval"
        file.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            rows = list(read_logs([file])[0])
        except InputError:
            continue
        assert all(row.error is not None or row.data in whole for row in rows)
