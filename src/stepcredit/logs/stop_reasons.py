"""What servers and logs call the end of a response, and what it means: one answer for importing and grading."""

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
"""The word for an end → stopped by the policy, which a tool call is too; cut by a limit; or cut by something else, a
filter, an error, whoever pressed a key: then nobody knows what the response would have come to, and it is undecided."""


def ending(value: Any, name: str) -> StopReason | Verdict:
    """What a value of `finish_reason` or `stop_reason` means.

    Args:
        value: a word in any spelling (`MAX_TOKENS`, `tool-calls`), an object with the word as its `type`, or None.
        name: the column, for the message.

    Raises:
        InputError: a word that is none of `ENDINGS`.
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
    """Whether a value says how a response ended. vLLM's `stop_reason` need not: it is the text that was met."""
    return _word(value) in ENDINGS


def cut_by_limit(value: Any) -> bool:
    """Whether a value says that a limit cut the response."""
    return ENDINGS.get(_word(value)) is StopReason.LENGTH


def only_called(value: Any) -> bool:
    """Whether the policy ended its turn with a call, and the conversation may have been cut after it."""
    return _word(value) in _CALL.split()


def _word(value: Any) -> str:
    word = value.get("type") if isinstance(value, Mapping) else value
    return word.strip().lower().replace("-", "_").replace(" ", "_") if isinstance(word, str) else ""
