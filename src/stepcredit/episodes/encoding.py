"""From text or chat to token ids, once: which tokens the policy wrote, and nothing tokenised twice.

An episode that carries its sampled ids keeps them. A log without ids is tokenised here, piece by piece,
as an engine would have met it: the prompt, then what the policy wrote, then the observation, and so on;
a round trip back to text proves that nothing was lost, and the result is marked `retokenised`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from stepcredit.episodes.episode import Episode, Message, Tokens
from stepcredit.episodes.turns import (
    Tokenizer,
    TurnEnds,
    assistant_turn,
    check_tools,
    render,
    rewrites,
    split_end,
    turn_as_written,
    turn_ends,
)
from stepcredit.errors import InputError


class Piece(NamedTuple):
    """A run of text, whether the policy wrote it, and what ends it if it did ("" or the end of a turn)."""

    text: str
    is_action: bool
    end: str = ""


def prompt_ids(prompt: str | Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The ids a policy sees before its first action: for collection and for logs alike.

    A text prompt gets what the tokenizer puts before every text, once: one that is a rendered chat may bring its own
    beginning of sequence.
    """
    if not isinstance(prompt, str):
        return plain_ids(render(prompt, tokenizer, open_turn=True), tokenizer)
    ids = list(tokenizer(prompt)["input_ids"])
    # A tokenizer that closes every text with an end token would end the episode before it starts.
    if ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token):
        ids.pop()
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos] and prompt.startswith(tokenizer.bos_token):
        del ids[0]
    return ids


def tokenise(
    episode: Episode, tokenizer: Tokenizer, ends: TurnEnds | None = None, *, as_written: bool = False
) -> Tokens:
    """The ids and action mask of an episode: its own where it has them, made from its text where not.

    The end of the response is an action too: end of sequence for text, the template's end of turn for chat, also for
    chat that was rendered as text; a truncated response has none, and one that brings its own gets no second.

    Args:
        episode: what happened.
        tokenizer: of the policy.
        ends: what ends a turn; by default what the tokenizer says of it.
        as_written: take a turn that the chat template does not give whole as it was written (`turn_as_written`).

    Raises:
        InputError: the ids do not decode to the text, the chat template does not extend its own prefix,
            or no token is an action.
    """
    if episode.tokens is not None:
        return episode.tokens
    ends = ends or turn_ends(tokenizer)
    if episode.is_chat:
        return _tokenise_chat(episode, tokenizer, ends, as_written)
    return _tokenise_text(episode, tokenizer, ends)


def _tokenise_text(episode: Episode, tokenizer: Tokenizer, ends: TurnEnds) -> Tokens:
    assert isinstance(episode.prompt, str)
    assert isinstance(episode.completion, str)
    before = prompt_ids(episode.prompt, tokenizer)
    if not before:
        raise InputError("the prompt has no tokens", "prompt")
    text, end = split_end(episode.completion, tokenizer, ends)
    if end is None and not episode.truncated:
        end = ends.of_chat if ends.open_turn(episode.prompt) else ends.of_text
    written = continuation_ids(before, text, tokenizer)
    return _assemble([(before, False), (written if end is None else [*written, end], True)])


def _tokenise_chat(episode: Episode, tokenizer: Tokenizer, ends: TurnEnds, as_written: bool) -> Tokens:
    runs: list[tuple[list[int], bool]] = []
    so_far: list[int] = []
    for piece in chat_pieces(episode, tokenizer, as_written=as_written):
        ids = continuation_ids(so_far, piece.text, tokenizer) + plain_ids(piece.end, tokenizer)
        if piece.end and ids[-1] not in ends.stop:
            raise InputError(
                f"the chat template ends a turn with {piece.end!r}, at which no response would stop; add it to "
                "eos_token_id of the model's generation config",
                "chat_template",
            )
        runs.append((ids, piece.is_action))
        so_far += ids
    return _assemble(runs)


def chat_pieces(episode: Episode, tokenizer: Tokenizer, *, as_written: bool = False) -> Iterator[Piece]:
    """The rendered conversation as alternating pieces; only what an assistant wrote is an action.

    A turn's text is what the template adds when the assistant's message is appended to an open prompt, up to and
    including its end of turn; what the template writes after that is an observation. Where the template writes no end
    of turn (MiniCPM's), the end of sequence is one: without it nobody would learn to stop.

    Raises:
        InputError: the template rewrites earlier turns when later ones come, so that the state the policy
            saw cannot be found in the rendered whole; or it leaves a tool out that the policy was given.
    """
    messages: list[Message] = [*episode.prompt, *episode.completion]
    turn_of = turn_as_written if as_written else assistant_turn
    check_tools(episode.tools, tokenizer)
    done = ""
    for k in range(len(episode.prompt), len(messages)):
        if messages[k]["role"] != "assistant":
            continue
        turn = turn_of(messages[: k + 1], tokenizer, episode.tools)
        if not turn.state.startswith(done):
            raise rewrites()
        yield Piece(turn.state[len(done) :], is_action=False)
        is_cut = k == len(messages) - 1 and episode.truncated
        yield Piece(turn.text, is_action=True, end="" if is_cut else turn.end or tokenizer.eos_token or "")
        done = "".join(turn)


def plain_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text alone, with no special tokens around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def decode(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Exactly the text of the ids: special tokens kept, spaces not cleaned up."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def response_text(ids: Sequence[int], tokenizer: Tokenizer, ends: TurnEnds | None = None) -> str:
    """The text of sampled ids as graders and environments see it: without special tokens and ends of turn."""
    special = (ends or turn_ends(tokenizer)).special
    return decode([int(i) for i in ids if int(i) not in special], tokenizer)


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
