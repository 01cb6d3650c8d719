"""What an assistant's turn is in a chat template, and what ends it: one answer for encoding, engines and search.

A template is asked, never read: a turn is what it adds when the assistant's message is appended to an open prompt.

    <|im_start|>user\\n2+3?<|im_end|>\\n<|im_start|>assistant\\n     5      <|im_end|>     \\n
    state: what the policy saw                                   text        end       not the policy's

What ends a response where it is sampled, which end is trained, and which tokens are no text: see `TurnEnds`.
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
"""Descriptions of the tools that a policy was given with its prompt."""
Tokenizer = Any  # a transformers.PreTrainedTokenizerBase; the episodes package does not import transformers

_REPLY = "a-reply-that-nobody-wrote"
_ASKED: Sequence[Message] = ({"role": "user", "content": "a-question"},)
_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""What a template, a program of its own, raises at messages that it was not written for."""
_CALL: dict[str, Any] = {"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}


class TurnEnds(NamedTuple):
    """What ends the responses of a policy.

    Attributes:
        of_text: the id that ends a text completion in training: end of sequence.
        of_chat: the id that the chat template writes after an assistant's message, and training trains; the end of
            sequence where it writes none.
        stop: every id that ends a response where it is sampled: these two, what the template writes after a tool
            call, and those of the generation config.
        special: ids that are no text: all special tokens, named and added, and those that end a response.
        opening: what the template writes between a user's message and the assistant's turn; "" without a template.
        closing: what it writes after an assistant's message that is the last, the end of turn first; likewise.
        chat_end: the end of turn that `closing` begins with, as text; "" where the template writes none.
    """

    of_text: int | None
    of_chat: int | None
    stop: frozenset[int]
    special: frozenset[int]
    opening: str = ""
    closing: str = ""
    chat_end: str = ""

    def open_turn(self, prompt: str) -> bool:
        """Whether a text is a rendered chat whose last turn is the assistant's, still open."""
        _, found, rest = prompt.rpartition(self.opening) if self.opening else ("", "", "")
        return bool(found) and not (self.chat_end and self.chat_end in rest)


class Turn(NamedTuple):
    """An assistant's turn as the template writes it: the open prompt before it, its text, its end or ""."""

    state: str
    text: str
    end: str


_KNOWN: WeakKeyDictionary[Any, dict[Any, TurnEnds]] = WeakKeyDictionary()


def turn_ends(tokenizer: Tokenizer, generation_config: Any | None = None) -> TurnEnds:
    """What ends a policy's turn, from its template, its special tokens and its generation config.

    Args:
        tokenizer: of the policy. Its named special tokens count, and added ones that are no attribute of it.
        generation_config: a `transformers.GenerationConfig`, for `eos_token_id`.
    """
    configured = getattr(generation_config, "eos_token_id", None)
    more = frozenset([configured] if isinstance(configured, int) else configured or ())
    key = (getattr(tokenizer, "chat_template", None), tokenizer.eos_token_id, len(tokenizer), more)
    found = _KNOWN.setdefault(tokenizer, {})
    if key not in found:
        found[key] = _ends(tokenizer, more)
    return found[key]


def _ends(tokenizer: Tokenizer, configured: frozenset[int]) -> TurnEnds:
    eos = tokenizer.eos_token_id
    opening, closing, after_call = _probe(tokenizer)
    starting = [t for t in _tokens(tokenizer, added=True) if closing.lstrip().startswith(t)]
    chat_end = max(starting, key=len, default="")
    written = [tokenizer.convert_tokens_to_ids(token) for token in (chat_end, after_call) if token]
    stop = frozenset({eos, *written, *configured} - {None})
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = frozenset({*tokenizer.all_special_ids, *added, *stop})
    return TurnEnds(eos, written[0] if chat_end else eos, stop, special, opening, closing, chat_end)


def _probe(tokenizer: Tokenizer) -> tuple[str, str, str]:
    """(opening, closing, an end of turn that it writes after a tool call alone), each "" where there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return "", "", ""
    reply: Message = {"role": "assistant", "content": _REPLY}
    try:
        opening = render(_ASKED, tokenizer, open_turn=True).rpartition(_ASKED[0]["content"])[2]
        closing = render([*_ASKED, reply], tokenizer, open_turn=False).rpartition(_REPLY)[2]
    except InputError:  # a template for other conversations; whoever renders one is told what is wrong
        return "", "", ""
    try:
        called = render([*_ASKED, {**reply, "tool_calls": [_CALL]}], tokenizer, open_turn=False)
    except InputError:  # no tool calls in this template
        return opening, closing, ""
    return opening, closing, "" if called.endswith(closing) else _last_end(called, tokenizer)[0]


def _last_end(text: str, tokenizer: Tokenizer) -> tuple[str, int]:
    """(the special token that a text ends with, where it begins); ("", its length) without one."""
    body = text.rstrip()
    ending = max((t for t in _tokens(tokenizer) if body.endswith(t)), key=len, default="")
    return ending, len(body) - len(ending) if ending else len(text)


def _tokens(tokenizer: Tokenizer, *, added: bool = False) -> list[str]:
    """The special tokens, named and added; with `added` also tokens that were added and are not special."""
    more = [str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special or added]
    return [t for t in dict.fromkeys([*tokenizer.all_special_tokens, *more]) if t]


def assistant_turn(messages: Sequence[Message], tokenizer: Tokenizer, tools: Tools = None) -> Turn:
    """The last of these messages, the assistant's, as the chat template writes it: text, thought and tool calls.

    Raises:
        InputError: the template does not append it to the open prompt, or leaves out what the assistant wrote.
    """
    message = without_end(messages[-1], tokenizer)
    state = render(messages[:-1], tokenizer, open_turn=True, tools=tools)
    after = render([*messages[:-1], message], tokenizer, open_turn=False, tools=tools)
    _check_whole(message, after, state)
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
    """The last of these messages, the assistant's, as it answered the open prompt before it.

    What the template gives where it gives all of it. A template that drops the thought of a message, or changes how
    it begins, is not asked: then the turn is the thought and the content, without what the open prompt already says.

    Raises:
        InputError: the template leaves out a tool call, whose text nobody else knows.
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
    said = max((k for k in range(len(written) + 1) if state.endswith(written[:k])), default=0)
    return Turn(state, written[said:], turn_ends(tokenizer).chat_end)


def own_turns(episode: Episode) -> Iterator[Episode]:
    """Each assistant turn of a conversation as an episode of its own, in the state that the policy saw.

    They share the outcome; of rewards given turn by turn each has its own and, with the outcome, the later ones. A
    truncated conversation was cut in its last turn. The prompts differ from turn to turn, and so do their ids.

    Raises:
        InputError: step rewards that are not one a turn.
    """
    messages: list[Message] = [*episode.prompt, *episode.completion]
    places = [k for k in range(len(episode.prompt), len(messages)) if messages[k]["role"] == "assistant"]
    rewards = episode.step_rewards or (0.0,) * len(places)
    if len(rewards) != len(places):
        raise InputError(f"{len(rewards)} rewards for {len(places)} turns; give one a turn", "step_rewards")
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
    """What the template writes after a reply that the user answers with `text`: from the end of the reply, where the
    template has one, to where the next one begins. It does not depend on what was replied.

    Args:
        prompt: the messages before the first reply.
        text: what the user says.
        tokenizer: whose template it is.

    Raises:
        InputError: the template leaves out a reply once it is answered.
    """
    reply = _REPLY
    while reply in text:
        reply += "!"
    messages = [*prompt, {"role": "assistant", "content": reply}, {"role": "user", "content": text}]
    _, found, after = render(messages, tokenizer, open_turn=True).rpartition(reply)
    if not found:
        raise rewrites()
    return after


def without_end(message: Message, tokenizer: Tokenizer) -> Message:
    """A message whose content does not bring its own end of turn, so that the template's is the only one."""
    content = message.get("content")
    if not isinstance(content, str) or not content:
        return message
    text, end = split_end(content, tokenizer, turn_ends(tokenizer))
    return message if end is None else {**message, "content": text}


def split_end(text: str, tokenizer: Tokenizer, ends: TurnEnds) -> tuple[str, int | None]:
    """(a text without the token that ends it, the id of that token); (the text, None) where it has none.

    White space after the end is the template's, and goes with it.
    """
    body = text.rstrip()
    for end in sorted(ends.stop):
        token = str(tokenizer.convert_ids_to_tokens(end))
        if token and body.endswith(token) and tokenizer.convert_tokens_to_ids(token) == end:
            return body[: len(body) - len(token)], end
    return text, None


def render(messages: Sequence[Message], tokenizer: Tokenizer, *, open_turn: bool, tools: Tools = None) -> str:
    """The messages as the chat template writes them, with the tools that the policy was given, and with the beginning
    of an assistant's turn if it is to be open.

    Raises:
        InputError: no template, or it refuses these messages: with what it says, and a way out.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the tokenizer has no chat template; give one (--chat_template FILE), or use text prompts",
                         "chat_template")  # fmt: skip
    conversation = [dict(m) for m in messages]
    try:
        return _applied(conversation, tokenizer, open_turn, tools)
    except _REFUSALS as error:
        refusal = error
    if any(m.get("content") is None for m in conversation):  # a message that is its tool calls alone
        filled = [{**m, "content": ""} if m.get("content") is None else m for m in conversation]
        try:
            return _applied(filled, tokenizer, open_turn, tools)
        except _REFUSALS as error:
            refusal = error
    raise _refused(conversation, refusal) from refusal


def _applied(conversation: list[dict[str, Any]], tokenizer: Tokenizer, open_turn: bool, tools: Tools) -> str:
    kwargs = {"tools": [dict(tool) for tool in tools]} if tools else {}
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=open_turn, **kwargs))


def check_tools(tools: Tools, tokenizer: Tokenizer) -> None:
    """The chat template writes the tools, all of them.

    Raises:
        InputError: it leaves one out, and says nothing of that.
    """
    text = render(_ASKED, tokenizer, open_turn=True, tools=tools) if tools else ""
    for tool in tools or ():
        name = str(tool.get("function", tool).get("name"))
        if name not in text:
            raise InputError(
                f"the chat template leaves out the tool {name!r}, which the policy was given; --chat_template FILE "
                "gives a template that writes tools",
                "chat_template",
            )


def _refused(messages: Sequence[Mapping[str, Any]], reason: Exception) -> InputError:
    said = " ".join(str(reason).split()) or type(reason).__name__
    way = "give another template (--chat_template FILE)"
    if any(m["role"] == "system" for m in messages):
        way = "--merge_system_message true puts the system text before the first user message"
    return InputError(f"the chat template refuses these messages ({said}); {way}", "chat_template")


def _not_appended(state: str, after: str) -> InputError:
    same = _common(state, after)
    return InputError(
        "the chat template does not append the assistant's message to the open prompt: where the prompt goes on with "
        f"{state[same : same + 30]!r} it writes {after[same : same + 30]!r}; --split_turns true makes each assistant "
        "turn an episode of its own, --chat_template FILE gives another template",
        "chat_template",
    )


def rewrites() -> InputError:
    """The error of a template that changes what the policy saw once later messages come."""
    return InputError(
        "the chat template changes earlier turns when later ones come, so that no one text has all states that the "
        "policy saw; --split_turns true makes each assistant turn an episode of its own, --chat_template FILE gives "
        "a template that appends",
        "chat_template",
    )


def _check_whole(message: Message, after: str, state: str) -> None:
    """Everything that the assistant wrote stands in the rendered text.

    Raises:
        InputError: saying what the template leaves out.
    """
    content = str(message.get("content") or "")
    thought, closes, answer = content.rpartition("</think>")
    thought = thought.rpartition("<think>")[2] if closes else str(message.get("reasoning_content") or "")
    written = after[_common(state, after) :]
    if thought.strip() and thought.strip() not in written:
        raise InputError(
            "the chat template drops the thought of the message; --split_turns true makes each assistant turn an "
            "episode of its own, thought included, --chat_template FILE gives a template that keeps it",
            "chat_template",
        )
    if answer.strip() not in written:
        raise InputError("the chat template leaves the assistant's message out", "chat_template")
    for call in message.get("tool_calls") or ():
        for text in _called(call):
            if text not in written:
                raise InputError(
                    f"the chat template leaves out the tool call {text!r} of the message; --chat_template FILE gives "
                    "a template that writes tool calls",
                    "chat_template",
                )


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _called(call: Any) -> list[str]:
    """What must stand in the text of a tool call: the function's name, and the plain words of its arguments."""
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    values = arguments.values() if isinstance(arguments, Mapping) else ()
    return [str(function.get("name", "")), *(v for v in values if isinstance(v, str) and v.isalnum())]
