"""From text or chat to token ids, once: which tokens the policy wrote, and nothing tokenised twice.

An episode that carries its sampled ids keeps them. A log without ids is tokenised here, piece by piece,
as an engine would have met it: the prompt, then what the policy wrote, then the observation, and so on;
a round trip back to text proves that nothing was lost, and the result is marked `retokenised`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from stepcredit.episodes.episode import Episode, Message, Tokens
from stepcredit.errors import InputError

Tokenizer = Any  # a transformers.PreTrainedTokenizerBase; the episodes room does not import transformers


class Piece(NamedTuple):
    """A run of text, whether the policy wrote it, and what ends it if it did ("" or the end of a turn)."""

    text: str
    is_action: bool
    end: str = ""


class Turn(NamedTuple):
    """An assistant's turn as the template writes it: the open prompt before it, its text, its end or ""."""

    state: str
    text: str
    end: str


def prompt_ids(prompt: str | Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The ids a policy sees before its first action: for collection and for logs alike."""
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        # A tokenizer that closes every text with an end token would end the episode before it starts.
        if ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token):
            ids.pop()
        return ids
    return plain_ids(_render(prompt, tokenizer, open_turn=True), tokenizer)


def tokenise(episode: Episode, tokenizer: Tokenizer) -> Tokens:
    """The ids and action mask of an episode: its own where it has them, made from its text where not.

    The end of the response is an action too: end of sequence for text, the template's end of turn for
    chat; a truncated response has none.

    Raises:
        InputError: the ids do not decode to the text, the chat template does not extend its own prefix,
            or no token is an action.
    """
    if episode.tokens is not None:
        return episode.tokens
    if episode.is_chat:
        return _tokenise_chat(episode, tokenizer)
    return _tokenise_text(episode, tokenizer)


def _tokenise_text(episode: Episode, tokenizer: Tokenizer) -> Tokens:
    assert isinstance(episode.prompt, str)
    assert isinstance(episode.completion, str)
    before = prompt_ids(episode.prompt, tokenizer)
    if not before:
        raise InputError("the prompt has no tokens", "prompt")
    written = continuation_ids(before, episode.completion, tokenizer)
    if not episode.truncated and tokenizer.eos_token_id is not None:
        written = [*written, tokenizer.eos_token_id]
    return _assemble([(before, False), (written, True)])


def _tokenise_chat(episode: Episode, tokenizer: Tokenizer) -> Tokens:
    runs: list[tuple[list[int], bool]] = []
    so_far: list[int] = []
    for piece in chat_pieces(episode, tokenizer):
        ids = continuation_ids(so_far, piece.text, tokenizer) + plain_ids(piece.end, tokenizer)
        runs.append((ids, piece.is_action))
        so_far += ids
    return _assemble(runs)


def chat_pieces(episode: Episode, tokenizer: Tokenizer) -> Iterator[Piece]:
    """The rendered conversation as alternating pieces; only what an assistant wrote is an action.

    A turn's text is what the template adds when the assistant's message is appended to an open prompt,
    up to and including its end-of-turn token; what the template writes after that is an observation. Where the
    template writes no end of turn (MiniCPM's), the end of sequence is one: without it nobody would learn to stop.

    Raises:
        InputError: the template rewrites earlier turns when later ones come, so that the state the policy
            saw cannot be found in the rendered whole.
    """
    messages: list[Message] = [*episode.prompt, *episode.completion]
    done = ""
    for k in range(len(episode.prompt), len(messages)):
        if messages[k]["role"] != "assistant":
            continue
        turn = assistant_turn(messages[: k + 1], tokenizer)
        if not turn.state.startswith(done):
            raise _does_not_append()
        if not turn.text and not turn.end:
            raise _leaves_out()
        is_last = k == len(messages) - 1
        yield Piece(turn.state[len(done) :], is_action=False)
        end = turn.end or tokenizer.eos_token or ""
        yield Piece(turn.text, is_action=True, end="" if is_last and episode.truncated else end)
        done = "".join(turn)


def assistant_turn(messages: Sequence[Message], tokenizer: Tokenizer) -> Turn:
    """The last of these messages, the assistant's, as the chat template writes it.

    Raises:
        InputError: the template does not append it to the open prompt, or leaves it out.
    """
    state = _render(messages[:-1], tokenizer, open_turn=True)
    after = _render(messages, tokenizer, open_turn=False)
    if not after.startswith(state):
        raise _does_not_append()
    text, end = _split_turn(after[len(state) :], messages[-1]["content"], tokenizer)
    return Turn(state, text, end)


def observation_text(messages: Sequence[Message], turn: Turn, tokenizer: Tokenizer) -> str:
    """What the chat template writes between the text of an assistant's turn and the assistant's next one.

    It begins with the end of the turn, where that has one.

    Args:
        messages: all, those after the turn included.
        turn: of an assistant's message among them.
        tokenizer: whose template it is.

    Raises:
        InputError: the template rewrites the turn, or what was before it, once later messages come.
    """
    state = _render(messages, tokenizer, open_turn=True)
    if not state.startswith("".join(turn)):
        raise _does_not_append()
    return state[len(turn.state) + len(turn.text) :]


def _does_not_append() -> InputError:
    return InputError(
        "this chat template does not append: rendering more turns changes earlier text (a template "
        "that drops earlier thinking does so); use the model's training template",
        "chat_template",
    )


def _leaves_out() -> InputError:
    return InputError(
        "this chat template yields no action tokens: it leaves the assistant's message out", "chat_template"
    )


def _split_turn(turn: str, content: str, tokenizer: Tokenizer) -> tuple[str, str]:
    """An assistant's rendered turn as (what it said, its end-of-turn token or "")."""
    said = content if content and content in turn else content.strip()
    if said not in turn:
        raise _leaves_out()
    at = turn.index(said) + len(said)
    ends = [t for t in tokenizer.all_special_tokens if t and turn[at:].lstrip().startswith(t)]
    if not ends:
        return turn[:at], ""
    end = max(ends, key=len)
    return turn[: turn.index(end, at)], end


def _render(messages: Sequence[Message], tokenizer: Tokenizer, *, open_turn: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the tokenizer has no chat template; give one, or use text prompts", "chat_template")
    conversation = [dict(m) for m in messages]
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=open_turn))


def plain_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text alone, with no special tokens around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def decode(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Exactly the text of the ids: special tokens kept, spaces not cleaned up."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def end_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end a response or a turn where they stand last in it: the special ones."""
    return frozenset({*tokenizer.all_special_ids, tokenizer.eos_token_id} - {None})


def response_text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of sampled ids without the token that ends them."""
    row = [int(i) for i in ids]
    return decode(row[:-1] if row and row[-1] in end_ids(tokenizer) else row, tokenizer)


def continuation_ids(before: list[int], text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of `text` such that `before` + ids reads on as written.

    Tokenised alone first, as sampled text would be. Tokenizers that put a space before every text need the
    second way: after a line break, which is cut off again.

    Raises:
        InputError: neither way gives the text back.
    """
    if not text:
        return []
    expected = decode(before, tokenizer) + text
    alone = plain_ids(text, tokenizer)
    if decode(before + alone, tokenizer) == expected:
        return alone
    anchor = plain_ids("\n", tokenizer)
    anchored = plain_ids("\n" + text, tokenizer)[len(anchor) :]
    if decode(before + anchored, tokenizer) == expected:
        return anchored
    raise InputError(
        "the tokenizer does not give this text back (unknown characters or a normaliser?); use the tokenizer "
        "of the policy that wrote it, or a byte-level one",
        "completion",
    )


def _assemble(runs: list[tuple[list[int], bool]]) -> Tokens:
    ids = [i for run, _ in runs for i in run]
    mask = [is_action for run, is_action in runs for _ in run]
    return Tokens(np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=np.bool_))
