"""Normalisation of chat messages and tools in logs: joined text parts, alternative names, parsed JSON text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepcredit.episodes.episode import ROLES, Message
from stepcredit.errors import InputError
from stepcredit.logs.columns import from_json, shown, unboxed

_TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of content parts that are text, in OpenAI's two interfaces and in Anthropic's."""
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}


def turns(value: Any, name: str) -> str | list[Message]:
    """Returns text, or chat messages without empty keys.

    Raises:
        InputError: the value is neither, or a message is invalid; with its index.
    """
    if isinstance(value, str):
        start = value.lstrip()[:20]
        if start[:1] == "[" and start.replace(" ", "").startswith(("[{'role'", "[{'content'", "[{'from'")):
            raise InputError("these messages are written as Python prints them; write them with json.dumps", name)
        return value
    if not isinstance(value, list) or not value:
        raise InputError(f"must be text or a list of chat messages, not {shown(value)}", name)
    if all(isinstance(item, str) for item in value):
        raise InputError(f"holds {len(value)} texts; give each response a row of its own, or chat messages", name)
    return [_message(item, f"{name}[{k}]") for k, item in enumerate(value)]


def tools(value: Any, name: str = "tools") -> tuple[Mapping[str, Any], ...] | None:
    """Returns the tool descriptions in the prompt, or None.

    Raises:
        InputError: the value is not a list of descriptions with names.
    """
    if not value:
        return None
    listed = [from_json(item) if isinstance(item, str) else item for item in value] if isinstance(value, list) else None
    if listed is None or not all(tool_name(tool) for tool in listed):
        raise InputError(
            f"must be a list of descriptions of tools, with a name each, not {shown(value)}; where the column is "
            "something else that the policy did not see, call it otherwise",
            name,
        )
    return tuple(listed)


def tool_name(tool: Any) -> str:
    """The name in a tool description, or ""."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else ""


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise InputError(f"every message needs a role, and a content that is text, not {shown(item)}", where)
    message = {key: unboxed(value) for key, value in item.items() if value is not None}
    if "role" not in message and {"from", "value"} <= message.keys():
        message |= {"role": _SHAREGPT_ROLES.get(message["from"], message.pop("from")), "content": message.pop("value")}
    if message.get("role") not in ROLES:
        raise InputError(
            f"a message needs a role of {', '.join(sorted(ROLES))}, not {shown(message.get('role'))}", where
        )
    if "function_call" in message:
        raise InputError("function_call is read no more; write it as one of tool_calls, and its answer as role tool",
                         where)  # fmt: skip
    if isinstance(message.get("reasoning"), str):  # as newer servers call it
        message.setdefault("reasoning_content", message.pop("reasoning"))
    calls = _calls(message.pop("tool_calls", None), where)
    content = _content(message.pop("content", None), where)
    if content is None and not calls:
        raise InputError("a message needs a content that is text (or tool_calls)", where)
    return {**message, "content": content, **({"tool_calls": calls} if calls else {})}


def _content(value: Any, where: str) -> str | None:
    """Returns text, or the concatenated text of a list of parts."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InputError(f"a message needs a content that is text, not {shown(value)}", where)
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            raise InputError(f"a part of the content is {shown(part if kind is None else kind)}; only text is read",
                             where)  # fmt: skip
    return "".join(part["text"] for part in value) if value else None


def _calls(value: Any, where: str) -> list[Mapping[str, Any]]:
    """Returns tool calls as objects; JSON text, which chat templates reject, is parsed at every level."""
    listed = from_json(value) if isinstance(value, str) else value
    if not listed:
        return []
    calls = [from_json(call) if isinstance(call, str) else call for call in listed] if isinstance(listed, list) else []
    if not calls or not all(tool_name(call) for call in calls):
        raise InputError(f"tool_calls must be a list of calls with the name of a function each, not {shown(value)}",
                         where)  # fmt: skip
    return [_with_plain_arguments(call) for call in calls]


def _with_plain_arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments")
    read = from_json(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(read, Mapping):
        return call
    plain = {**function, "arguments": read}
    return {**call, "function": plain} if "function" in call else plain
