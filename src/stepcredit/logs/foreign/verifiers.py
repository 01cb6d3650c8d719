"""Rollouts of `verifiers`: rows of `results.jsonl`, and the traces that later versions write to `traces.jsonl`, by
themselves or as episodes of several agents.

A rollout that ended with an error is undecided, whatever its reward; one that a limit cut is truncated. A trace is a
graph of messages; every path from a root to a leaf with a sampled message is a response, and has the reward of the
trace. Traces of agents that are not trained, such as judges, are left out, and all traces of an episode that failed are
undecided. Advantages, token ids and log-probabilities of the tokens are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepcredit.errors import InputError
from stepcredit.logs.columns import shown
from stepcredit.logs.foreign.chat_calls import NO_RESPONSE, as_function, with_functions

_MARKS = ("is_truncated", "is_completed", "stop_condition", "timing", "generation_ms")
_LIMITS = ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "compaction_failed")
_TRACE_KEPT = ("task", "info", "metrics", "rewards", "stop_condition", "errors")


def is_rollout(row: Mapping[str, Any]) -> bool:
    """Whether a row is a rollout of `results.jsonl`."""
    return {"example_id", "prompt", "completion", "reward"} <= row.keys() and any(mark in row for mark in _MARKS)


def from_rollout(row: Mapping[str, Any]) -> list[dict[str, Any] | InputError]:
    """The row with our columns."""
    ours = {**row, "prompt": with_functions(row["prompt"], "prompt")}
    ours["completion"] = with_functions(row["completion"], "completion")
    if isinstance(row.get("tool_defs"), list):
        ours["tools"] = [as_function(tool) for tool in ours.pop("tool_defs")]
    if row.get("error") is not None:
        ours["finish_reason"] = "error"
        ours["completion"] = ours["completion"] or _nothing(row["prompt"])
    elif row.get("is_truncated"):
        ours["truncated"] = True
    return [ours]


def _nothing(prompt: Any) -> Any:
    return "" if isinstance(prompt, str) else [NO_RESPONSE]


def is_trace(row: Mapping[str, Any]) -> bool:
    """Whether a row is a trace of `traces.jsonl`."""
    return isinstance(row.get("nodes"), list) and "task" in row and "prompt" not in row and "messages" not in row


def from_trace(row: Mapping[str, Any]) -> list[dict[str, Any] | InputError]:
    """One row for each path that ends in a leaf and has a sampled message.

    Raises:
        InputError: the graph is broken, or nothing was sampled although nothing failed.
    """
    nodes = row["nodes"]
    for k, node in enumerate(nodes):
        _check_node(node, k)
    failed = _failed(row)
    shared = {
        **{name: row[name] for name in _TRACE_KEPT if row.get(name) is not None},
        **({"trace_id": row["id"]} if "id" in row else {}),
        **_outcome(row, failed),
    }
    tools = row.get("tools")
    paths = [_path(nodes, leaf) for leaf in _leaves(nodes)]
    if sampled := [path for path in paths if any(node.get("sampled") for node in path)]:
        return [_response(path, {**shared, **_tools(path[0].get("tools") or tools)}) for path in sampled]
    if not failed:
        return [InputError("no message was sampled: nothing the policy wrote", "nodes")]
    asked = [node["message"] for node in _path(nodes, len(nodes) - 1)] if nodes else _asked(row)
    return [{**shared, **_tools(tools), "prompt": with_functions(asked, "nodes"), "completion": [NO_RESPONSE]}]


def is_episode(row: Mapping[str, Any]) -> bool:
    """Whether a row is an episode of `traces.jsonl`."""
    return isinstance(row.get("traces"), list) and "task" in row and "prompt" not in row and "messages" not in row


def from_episode(row: Mapping[str, Any]) -> list[dict[str, Any] | InputError]:
    """The rows of its traces; of a failed episode without a trace of the policy, its task with no response.

    Raises:
        InputError: a trace is none, or none is of an agent that is trained.
    """
    traces = row["traces"]
    for k, trace in enumerate(traces):
        if not isinstance(trace, Mapping) or not isinstance(trace.get("nodes"), list):
            raise InputError(f"must be an object with nodes, not {shown(trace)}", f"traces[{k}]")
    failed = _failed(row)
    trained = [trace for trace in traces if _is_trained(trace)]
    if not trained and failed:
        trained = [{"nodes": [], "ok": False, **{name: row[name] for name in ("task", "errors") if name in row}}]
    if not trained:
        raise InputError("no trace of an agent that is trained", "traces")
    return [ours for trace in trained for ours in from_trace({**trace, "ok": False} if failed else trace)]


def _is_trained(trace: Mapping[str, Any]) -> bool:
    agent = trace.get("agent")
    return not isinstance(agent, Mapping) or agent.get("trainable") is not False


def _failed(row: Mapping[str, Any]) -> bool:
    return not row["ok"] if "ok" in row else bool(row.get("errors") or row.get("error"))


def _tools(tools: Any) -> dict[str, Any]:
    return {"tools": [as_function(tool) for tool in tools]} if isinstance(tools, list) and tools else {}


def _asked(row: Mapping[str, Any]) -> list[Any]:
    """What the task asks of an agent.

    Raises:
        InputError: the task has no prompt.
    """
    task = row.get("task")
    data = task.get("data") if isinstance(task, Mapping) else None
    prompt, system = (data.get(name) if isinstance(data, Mapping) else None for name in ("prompt", "system_prompt"))
    before = [{"role": "system", "content": system}] if system else []
    if not prompt or not isinstance(prompt, str | list):
        raise InputError("failed before there was a message, and its task has no prompt", "nodes")
    return [*before, *(prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}])]


def _check_node(node: Any, k: int) -> None:
    if not isinstance(node, Mapping) or not isinstance(node.get("message"), Mapping):
        raise InputError(f"must be an object with a message, not {shown(node)}", f"nodes[{k}]")
    parent = node.get("parent")
    if parent is not None and (not isinstance(parent, int) or isinstance(parent, bool) or not 0 <= parent < k):
        raise InputError(f"the parent must be an earlier node, not {shown(parent)}", f"nodes[{k}]")


def _leaves(nodes: list[Mapping[str, Any]]) -> list[int]:
    """Nodes without children, but for attempts to compact the history from which the run did not go on."""
    parents = {node.get("parent") for node in nodes}
    accepted = {link.get("node") for node in nodes for link in _links(node) if link.get("type") == "compaction"}
    tried = {
        k for k, node in enumerate(nodes) if any(link.get("type") == "compaction_attempt" for link in _links(node))
    }
    return [k for k in range(len(nodes)) if k not in parents and (k not in tried or k in accepted)]


def _links(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = node.get("semantic_parents")
    return [link for link in links if isinstance(link, Mapping)] if isinstance(links, list) else []


def _path(nodes: list[Mapping[str, Any]], leaf: int) -> list[Mapping[str, Any]]:
    path: list[Mapping[str, Any]] = []
    at: int | None = leaf
    while at is not None:
        path.append(nodes[at])
        at = nodes[at].get("parent")
    return path[::-1]


def _response(path: list[Mapping[str, Any]], shared: Mapping[str, Any]) -> dict[str, Any] | InputError:
    first = next(k for k, node in enumerate(path) if node.get("sampled"))
    if any(not node.get("sampled") and node["message"].get("role") == "assistant" for node in path[first:]):
        return InputError("an assistant message after the first sampled one was not sampled", "nodes")
    messages = with_functions([node["message"] for node in path], "nodes")
    return {**shared, "prompt": messages[:first], "completion": messages[first:]}


def _outcome(row: Mapping[str, Any], failed: bool) -> dict[str, Any]:
    """The reward and how the trace ended; a reward that was not computed is undecided."""
    rewards = row.get("rewards")
    named = rewards if isinstance(rewards, Mapping) else {}
    if failed:
        return {"finish_reason": "error"}
    end: dict[str, Any] = {"truncated": True} if _is_cut(row) else {}
    if any(reward is None for reward in named.values()):
        return {**end, "verdict": "undecided"}
    return {**end, "reward": sum(_value(reward, name) for name, reward in named.items())} if named else end


def _value(reward: Any, name: str) -> float:
    """The score times its weight."""
    score, weight = (reward.get("score"), reward.get("weight", 1.0)) if isinstance(reward, Mapping) else (reward, 1.0)
    if not isinstance(score, int | float) or not isinstance(weight, int | float):
        raise InputError(f"must be a number, or a score and a weight, not {shown(reward)}", f"rewards.{name}")
    return float(score) * float(weight)


def _is_cut(row: Mapping[str, Any]) -> bool:
    calls = row.get("calls")
    done = [c for c in calls if isinstance(c, Mapping) and not c.get("error")] if isinstance(calls, list) else []
    return row.get("stop_condition") in _LIMITS or bool(done and done[-1].get("finish_reason") == "length")
