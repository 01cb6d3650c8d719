"""Response files of OpenAI's batch interface and of vLLM's `run_batch`, joined with other files by `custom_id`.

A response file has no prompts and no answers: the request file has the prompts, and any other file with a `custom_id`
adds its columns (`answer`, `reward`, …). Every choice is a row. A failed request is a row with an empty response and
`finish_reason` error, which is undecided. The joined files are in memory, the responses are read one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stepcredit.errors import InputError
from stepcredit.logs.columns import shown
from stepcredit.logs.foreign.chat_calls import NO_RESPONSE
from stepcredit.logs.formats import Row


def is_response(row: Mapping[str, Any]) -> bool:
    """Whether a row is a line of a response file or of an error file."""
    if "custom_id" not in row or "prompt" in row or "response" not in row:
        return False
    return isinstance(row["response"], Mapping) or (row["response"] is None and "error" in row)


def is_joined(row: Mapping[str, Any]) -> bool:
    """Whether a row adds columns to the responses with its `custom_id`."""
    return "custom_id" in row and "prompt" not in row and not is_response(row)


class Joined:
    """Columns by `custom_id`: the prompts of requests, and the columns of all other files."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[str, Any]] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Adds a file.

        Raises:
            InputError: a row is bad, has no `custom_id`, or gives a column a second value; with file and line.
        """
        for row in rows:
            if row.data is None:
                raise row.error or InputError("a row without data", row.where)
            name = row.data.get("custom_id")
            if not isinstance(name, str):
                raise InputError(f"custom_id must be text, not {shown(name)}", row.where)
            known = self._columns.setdefault(name, {})
            for column, value in _columns(row.data).items():
                if column in known:
                    raise InputError(f"custom_id {name[:40]!r} has a {column} already", row.where)
                known[column] = value

    def responses(self, row: Mapping[str, Any]) -> list[dict[str, Any] | InputError]:
        """One row for each choice of a response.

        Raises:
            InputError: no request has its `custom_id`, or the body is not a chat or text completion.
        """
        name = row["custom_id"]
        known = self._columns.get(name, {}) if isinstance(name, str) else {}
        if "prompt" not in known:
            raise InputError(
                f"there is no request with custom_id {shown(name)}; give the request file too (custom_id, body)"
            )
        shared, is_text = {"custom_id": name, **known}, isinstance(known["prompt"], str)
        failure = _failure(row)
        if failure is not None:
            response = "" if is_text else [NO_RESPONSE]
            return [{**shared, "response": response, "finish_reason": "error", "error": failure}]
        body = row["response"].get("body")
        choices = body.get("choices") if isinstance(body, Mapping) else None
        if not isinstance(choices, list) or not choices:
            raise InputError("no choices; only chat completions and completions are read", "response.body")
        return [_choice(choice, k, shared) for k, choice in enumerate(choices)]


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a row adds; of a request, the prompt and the tools."""
    if not isinstance(row.get("body"), Mapping):
        return {name: value for name, value in row.items() if name != "custom_id"}
    body = row["body"]
    added = {name: value for name, value in row.items() if name not in ("custom_id", "method", "url", "body")}
    prompt = body.get("messages", body.get("prompt"))
    return added | {"prompt": prompt} | ({"tools": body["tools"]} if body.get("tools") else {})


def _failure(row: Mapping[str, Any]) -> Any:
    """Why a request failed, or None."""
    if row.get("error") is not None:
        return row["error"]
    response = row["response"]
    if not isinstance(response, Mapping):
        return "no response"
    status = response.get("status_code", 200)
    return None if status == 200 else response.get("body") or f"status {status}"


def _choice(choice: Any, k: int, shared: Mapping[str, Any]) -> dict[str, Any] | InputError:
    where = f"response.body.choices[{k}]"
    if not isinstance(choice, Mapping):
        return InputError(f"must be an object, not {shown(choice)}", where)
    ours = {**shared, "finish_reason": choice.get("finish_reason")}
    message = choice.get("message")
    if isinstance(message, Mapping):
        if message.get("refusal"):
            ours["finish_reason"] = "refusal"
        said = {key: value for key, value in message.items() if value is not None and key != "refusal"}
        text = said.get("content", "")
        return {**ours, "response": text if isinstance(shared["prompt"], str) else [{**said, "content": text}]}
    if not isinstance(choice.get("text"), str):
        return InputError("has neither a message nor a text", where)
    return {**ours, "response": choice["text"]}
