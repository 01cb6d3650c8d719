"""Tool calls and tools of other tools' messages, written as chat templates expect them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepcredit.errors import InputError
from stepcredit.logs.columns import from_json, shown

NO_RESPONSE: Mapping[str, str] = {"role": "assistant", "content": ""}
"""The response of a request that failed before it wrote anything; the episode is undecided."""


def as_function(item: Any) -> Any:
    """A tool or a call with `name` and its other keys beside it, as `{"type": "function", "function": {…}}`; anything
    else unchanged."""
    item = from_json(item) if isinstance(item, str) else item
    if not isinstance(item, Mapping) or isinstance(item.get("function"), Mapping):
        return item
    name = item.get("name", item.get("function"))
    keys = ("description", "parameters", "arguments")
    function = {"name": name, **{key: item[key] for key in keys if item.get(key) is not None}}
    kept = {"id": item["id"]} if item.get("id") is not None else {}
    return {**kept, "type": "function", "function": function}


def with_functions(messages: Any, name: str) -> Any:
    """Chat messages with their tool calls as functions; text and None unchanged.

    Raises:
        InputError: a message is not an object.
    """
    if not isinstance(messages, list):
        return messages
    for k, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"every message must be an object, not {shown(message)}", f"{name}[{k}]")
    return [
        {**message, "tool_calls": [as_function(call) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in messages
    ]
