"""Stop reasons of servers and logs, and their meaning for importing and grading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepcredit.episodes.episode import StopReason
from stepcredit.errors import InputError
from stepcredit.verdict import Verdict

_STOP = "stop eos eos_token stop_sequence stop_token stop_string stop_str word end_turn complete completed"
_CALL = "tool_calls tool_call tool_use function_call"
_LENGTH = (
    "length max_tokens max_output_tokens max_new_tokens model_length model_context_window_exceeded context_length "
    "limit max_turns max_steps truncated"
)
_UNDECIDED = (
    "content_filter content_filtered safety refusal recitation guardrail_intervened abort aborted cancelled error "
    "failed timeout pause_turn"
)
ENDINGS: Mapping[str, StopReason | Verdict] = {
    **dict.fromkeys((*_STOP.split(), *_CALL.split()), StopReason.STOP),
    **dict.fromkeys(_LENGTH.split(), StopReason.LENGTH),
    **dict.fromkeys(_UNDECIDED.split(), Verdict.UNDECIDED),
    "unknown": StopReason.UNKNOWN,
}
"""Stop reason in a log → stopped by the policy (including tool calls); cut by a limit; or undecided, because a filter,
an error or a cancellation cut the response."""


def ending(value: Any, name: str) -> StopReason | Verdict:
    """Returns the meaning of a `finish_reason` or `stop_reason`.

    Args:
        value: a word in any spelling (`MAX_TOKENS`, `tool-calls`), an object with the word as its `type`, or None.
        name: the column, for the message.

    Raises:
        InputError: the word is not in `ENDINGS`.
    """
    if value is None:
        return StopReason.UNKNOWN
    found = ENDINGS.get(_word(value))
    if found is None:
        raise InputError(
            f"{value!r} is no known end of a response; write stop (the policy ended it), length (a limit cut it), "
            "error (something else cut it) or unknown",
            name,
        )
    return found


def is_known(value: Any) -> bool:
    """Whether a value is a known stop reason. vLLM's `stop_reason` may instead be the matched stop string."""
    return _word(value) in ENDINGS


def cut_by_limit(value: Any) -> bool:
    """Whether a limit cut the response."""
    return ENDINGS.get(_word(value)) is StopReason.LENGTH


def cut_otherwise(value: Any) -> bool:
    """Whether a filter, an error or a cancellation cut the response, which makes it undecided."""
    return ENDINGS.get(_word(value)) is Verdict.UNDECIDED


def only_called(value: Any) -> bool:
    """Whether the policy ended its turn with a tool call, after which the conversation may have been cut."""
    return _word(value) in _CALL.split()


def _word(value: Any) -> str:
    word = value.get("type") if isinstance(value, Mapping) else value
    return word.strip().lower().replace("-", "_").replace(" ", "_") if isinstance(word, str) else ""
