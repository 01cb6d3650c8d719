"""Assistant turns in a chat template and the tokens that end them, for encoding, engines and search.

Templates are rendered, not parsed: a turn is what is added when the assistant's message follows an open prompt.

    <|im_start|>user\\n2+3?<|im_end|>\\n<|im_start|>assistant\\n     5      <|im_end|>     \\n
    state: the policy's input                                    text        end       not the policy's

`TurnEnds` has the tokens that stop generation, those that are trained as ends, and those that are not text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from jinja2.exceptions import TemplateError

from stepcredit.episodes.episode import Episode, Message, StopReason
from stepcredit.errors import InputError

Tools = Sequence[Mapping[str, Any]] | None
"""Tool descriptions of a chat prompt."""
Tokenizer = Any  # a transformers.PreTrainedTokenizerBase; the episodes package does not import transformers

_PROBE_REPLY = "a-reply-that-nobody-wrote"
_PROBE_PROMPT: Sequence[Message] = ({"role": "user", "content": "a-question"},)
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""The errors that a template raises for messages it does not support."""
_PROBE_CALL: dict[str, Any] = {"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}


class TurnEnds(NamedTuple):
    """The tokens that end the responses of a policy.

    Attributes:
        of_text: the id that ends a text completion: the end of sequence.
        of_chat: the id that ends an assistant message of the chat template; the end of sequence if it writes none.
        stop: the ids that stop generation: these two, the end that the template writes after a tool call, and those of
            the generation config.
        special: the ids that are not text: all special tokens, named and added, and `stop`.
        opening: what the template writes between a user message and the assistant's turn; "" without a template.
        closing: what the template writes after a final assistant message; "" without a template.
        chat_end: the end of turn at the start of `closing`, as text; "" if the template writes none.
    """

    of_text: int | None
    of_chat: int | None
    stop: frozenset[int]
    special: frozenset[int]
    opening: str = ""
    closing: str = ""
    chat_end: str = ""

    def open_turn(self, prompt: str) -> bool:
        """Whether a text is a rendered chat that ends in an open assistant turn."""
        _, opening, rest = prompt.rpartition(self.opening) if self.opening else ("", "", "")
        return bool(opening) and not (self.chat_end and self.chat_end in rest)


class Turn(NamedTuple):
    """An assistant turn as rendered by the template: the open prompt before it, its text, and its end or ""."""

    state: str
    text: str
    end: str


_CACHE: WeakKeyDictionary[Any, dict[Any, TurnEnds]] = WeakKeyDictionary()


def turn_ends(tokenizer: Tokenizer, generation_config: Any | None = None) -> TurnEnds:
    """Returns the end-of-turn tokens of a policy, from its template, special tokens and generation config.

    Args:
        tokenizer: the policy's tokenizer, with its named and added special tokens.
        generation_config: a `transformers.GenerationConfig`, for `eos_token_id`.
    """
    configured = getattr(generation_config, "eos_token_id", None)
    more = frozenset([configured] if isinstance(configured, int) else configured or ())
    key = (getattr(tokenizer, "chat_template", None), tokenizer.eos_token_id, len(tokenizer), more)
    cache = _CACHE.setdefault(tokenizer, {})
    if key not in cache:
        cache[key] = _ends(tokenizer, more)
    return cache[key]


def _ends(tokenizer: Tokenizer, configured: frozenset[int]) -> TurnEnds:
    eos = tokenizer.eos_token_id
    opening, closing, after_call = _probe(tokenizer)
    candidates = [t for t in _tokens(tokenizer, added=True) if closing.lstrip().startswith(t)]
    chat_end = max(candidates, key=len, default="")
    written = [tokenizer.convert_tokens_to_ids(token) for token in (chat_end, after_call) if token]
    stop = frozenset({eos, *written, *configured} - {None})
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = frozenset({*tokenizer.all_special_ids, *added, *stop})
    return TurnEnds(eos, written[0] if chat_end else eos, stop, special, opening, closing, chat_end)


def _probe(tokenizer: Tokenizer) -> tuple[str, str, str]:
    """Returns (opening, closing, an end of turn used only after tool calls), each "" if there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return "", "", ""
    reply: Message = {"role": "assistant", "content": _PROBE_REPLY}
    try:
        opening = render(_PROBE_PROMPT, tokenizer, open_turn=True).rpartition(_PROBE_PROMPT[0]["content"])[2]
        closing = render([*_PROBE_PROMPT, reply], tokenizer, open_turn=False).rpartition(_PROBE_REPLY)[2]
    except InputError:  # a template for other conversations; rendering one raises a clear error
        return "", "", ""
    try:
        called = render([*_PROBE_PROMPT, {**reply, "tool_calls": [_PROBE_CALL]}], tokenizer, open_turn=False)
    except InputError:  # no tool calls in this template
        return opening, closing, ""
    return opening, closing, "" if called.endswith(closing) else _last_end(called, tokenizer)[0]


def _last_end(text: str, tokenizer: Tokenizer) -> tuple[str, int]:
    """Returns (the special token at the end of a text, its offset), or ("", length of the text)."""
    body = text.rstrip()
    ending = max((t for t in _tokens(tokenizer) if body.endswith(t)), key=len, default="")
    return ending, len(body) - len(ending) if ending else len(text)


def _tokens(tokenizer: Tokenizer, *, added: bool = False) -> list[str]:
    """Returns the special tokens, named and added; with `added`, also added tokens that are not special."""
    more = [str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special or added]
    return [t for t in dict.fromkeys([*tokenizer.all_special_tokens, *more]) if t]


def assistant_turn(messages: Sequence[Message], tokenizer: Tokenizer, tools: Tools = None) -> Turn:
    """Renders the last message, an assistant's, with the chat template: text, reasoning and tool calls.

    Raises:
        InputError: the template does not append it to the open prompt, or leaves out some of it.
    """
    message = without_end(messages[-1], tokenizer)
    state = render(messages[:-1], tokenizer, open_turn=True, tools=tools)
    after = render([*messages[:-1], message], tokenizer, open_turn=False, tools=tools)
    _check_complete(message, after, state)
    if not after.startswith(state):
        raise _not_appended(state, after)
    turn = after[len(state) :]
    ends = turn_ends(tokenizer)
    if turn.endswith(ends.closing):
        end, body = ends.chat_end, len(turn) - len(ends.closing)
        at = turn.index(end, body) if end else body
    else:
        end, at = _last_end(turn, tokenizer)
    return Turn(state, turn[:at], end)


def turn_as_written(messages: Sequence[Message], tokenizer: Tokenizer, tools: Tools = None) -> Turn:
    """Renders the last message, an assistant's, as the policy wrote it after the open prompt.

    Uses the template if it renders the whole message. If it drops the reasoning or changes how the message begins, the
    turn is the reasoning and the content, without what the open prompt already contains.

    Raises:
        InputError: the template leaves out a tool call, whose text is then unknown.
    """
    try:
        return assistant_turn(messages, tokenizer, tools)
    except InputError:
        message = without_end(messages[-1], tokenizer)
        if message.get("tool_calls"):
            raise
    state = render(messages[:-1], tokenizer, open_turn=True, tools=tools)
    written = str(message.get("content") or "")
    if thought := message.get("reasoning_content"):
        written = f"<think>\n{thought}\n</think>\n\n{written}"
    overlap = max((k for k in range(len(written) + 1) if state.endswith(written[:k])), default=0)
    return Turn(state, written[overlap:], turn_ends(tokenizer).chat_end)


def split_into_turns(episode: Episode) -> Iterator[Episode]:
    """Yields each assistant turn of a conversation as a separate episode, whose prompt is the conversation before it.

    The reward of a turn is the outcome plus the step rewards of this and all later turns; all turns share the outcome.
    Only the last turn of a truncated conversation is truncated. Prompts and prompt ids differ between turns.

    Raises:
        InputError: the number of step rewards is not the number of turns.
    """
    messages: list[Message] = [*episode.prompt, *episode.completion]
    places = [k for k in range(len(episode.prompt), len(messages)) if messages[k]["role"] == "assistant"]
    rewards = episode.step_rewards or (0.0,) * len(places)
    if len(rewards) != len(places):
        raise InputError(f"{len(rewards)} rewards for {len(places)} turns; give one per turn", "step_rewards")
    for turn, place in enumerate(places):
        is_last = turn == len(places) - 1
        yield replace(
            episode,
            prompt=messages[:place],
            completion=[messages[place]],
            reward=None if episode.reward is None else episode.reward + math.fsum(rewards[turn:]),
            outcome=episode.reward if episode.outcome is None else episode.outcome,
            step_rewards=None,
            prompt_id=episode.prompt_id if turn == 0 else f"{episode.prompt_id}/turn{turn}/{episode.sample}",
            stop_reason=episode.stop_reason if is_last else StopReason.STOP,
        )


def observation_after_reply(prompt: Sequence[Message], text: str, tokenizer: Tokenizer) -> str:
    """Renders the observation `text` after a reply, from the reply's end of turn to the start of the next reply; does
    not depend on the reply.

    Args:
        prompt: the messages before the first reply.
        text: the observation.
        tokenizer: the tokenizer with the chat template.

    Raises:
        InputError: the template leaves out earlier replies.
    """
    reply = _PROBE_REPLY
    while reply in text:
        reply += "!"
    messages = [*prompt, {"role": "assistant", "content": reply}, {"role": "user", "content": text}]
    _, separator, after = render(messages, tokenizer, open_turn=True).rpartition(reply)
    if not separator:
        raise rewrites()
    return after


def without_end(message: Message, tokenizer: Tokenizer) -> Message:
    """Returns a message without an end of turn in its content, so that the template's is the only one."""
    content = message.get("content")
    if not isinstance(content, str) or not content:
        return message
    text, end = split_end(content, tokenizer, turn_ends(tokenizer))
    return message if end is None else {**message, "content": text}


def split_end(text: str, tokenizer: Tokenizer, ends: TurnEnds) -> tuple[str, int | None]:
    """Splits a text into (text, id of its final end token), with None if there is none.

    White space after the end token is removed with it.
    """
    body = text.rstrip()
    for end in sorted(ends.stop):
        token = str(tokenizer.convert_ids_to_tokens(end))
        if token and body.endswith(token) and tokenizer.convert_tokens_to_ids(token) == end:
            return body[: len(body) - len(token)], end
    return text, None


def render(messages: Sequence[Message], tokenizer: Tokenizer, *, open_turn: bool, tools: Tools = None) -> str:
    """Renders messages with the chat template and its tools; `open_turn` adds the start of an assistant turn.

    Raises:
        InputError: there is no template, or it does not support these messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the tokenizer has no chat template; give one (--chat_template FILE), or use text prompts",
                         "chat_template")  # fmt: skip
    conversation = [dict(m) for m in messages]
    try:
        return _apply(conversation, tokenizer, open_turn, tools)
    except _TEMPLATE_ERRORS as error:
        refusal = error
    if any(m.get("content") is None for m in conversation):  # a message with only tool calls
        filled = [{**m, "content": ""} if m.get("content") is None else m for m in conversation]
        try:
            return _apply(filled, tokenizer, open_turn, tools)
        except _TEMPLATE_ERRORS as error:
            refusal = error
    raise _template_error(conversation, refusal) from refusal


def _apply(conversation: list[dict[str, Any]], tokenizer: Tokenizer, open_turn: bool, tools: Tools) -> str:
    kwargs = {"tools": [dict(tool) for tool in tools]} if tools else {}
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=open_turn, **kwargs))


def check_tools(tools: Tools, tokenizer: Tokenizer) -> None:
    """Checks that the chat template renders all tools.

    Raises:
        InputError: it leaves one out.
    """
    text = render(_PROBE_PROMPT, tokenizer, open_turn=True, tools=tools) if tools else ""
    for tool in tools or ():
        name = str(tool.get("function", tool).get("name"))
        if name not in text:
            raise InputError(
                f"the chat template leaves out the tool {name!r} of the prompt; --chat_template FILE "
                "gives a template that writes tools",
                "chat_template",
            )


def _template_error(messages: Sequence[Mapping[str, Any]], reason: Exception) -> InputError:
    text = " ".join(str(reason).split()) or type(reason).__name__
    hint = "give another template (--chat_template FILE)"
    if any(m["role"] == "system" for m in messages):
        hint = "--merge_system_message true puts the system text before the first user message"
    return InputError(f"the chat template refuses these messages ({text}); {hint}", "chat_template")


def _not_appended(state: str, after: str) -> InputError:
    same = _common_prefix_length(state, after)
    return InputError(
        "the chat template does not append the assistant's message to the open prompt: the prompt continues with "
        f"{state[same : same + 30]!r}, the conversation with {after[same : same + 30]!r}; --split_turns true makes "
        "each assistant turn a separate episode, --chat_template FILE gives another template",
        "chat_template",
    )


def rewrites() -> InputError:
    """Returns the error for a template that changes earlier turns when later ones are added."""
    return InputError(
        "the chat template changes earlier turns when later ones are added, so that no single text has all states of "
        "the policy; --split_turns true makes each assistant turn a separate episode, --chat_template FILE gives a "
        "template that only appends",
        "chat_template",
    )


def _check_complete(message: Message, after: str, state: str) -> None:
    """Checks that the rendered text contains the whole assistant message.

    Raises:
        InputError: the template leaves something out; the message names it.
    """
    content = str(message.get("content") or "")
    thought, closes, answer = content.rpartition("</think>")
    thought = thought.rpartition("<think>")[2] if closes else str(message.get("reasoning_content") or "")
    written = after[_common_prefix_length(state, after) :]
    if thought.strip() and thought.strip() not in written:
        raise InputError(
            "the chat template drops the reasoning of the message; --split_turns true makes each assistant turn a "
            "separate episode with its reasoning, --chat_template FILE gives a template that keeps it",
            "chat_template",
        )
    if answer.strip() not in written:
        raise InputError("the chat template leaves the assistant's message out", "chat_template")
    for call in message.get("tool_calls") or ():
        for text in _call_texts(call):
            if text not in written:
                raise InputError(
                    f"the chat template leaves out the tool call {text!r} of the message; --chat_template FILE gives "
                    "a template that writes tool calls",
                    "chat_template",
                )


def _common_prefix_length(one: str, other: str) -> int:
    """Returns the length of the common prefix of two texts."""
    if other.startswith(one):
        return len(one)
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _call_texts(call: Any) -> list[str]:
    """Returns the texts that a rendered tool call must contain: the function name and its plain-word arguments."""
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    values = arguments.values() if isinstance(arguments, Mapping) else ()
    return [str(function.get("name", "")), *(v for v in values if isinstance(v, str) and v.isalnum())]
