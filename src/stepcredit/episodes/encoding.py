"""Tokenisation of episodes: token ids and which of them are actions.

An episode with sampled ids keeps them. One without is tokenised span by span, as an engine would have: the prompt,
then the policy's text, then the observation, and so on. Decoding must give the text back, and the result is marked
`retokenised`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
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

_CONTEXT = 32
"""How many ids before a text are decoded with it; all of them where these give other text than the whole does."""


class TextSpan(NamedTuple):
    """A span of text, whether the policy wrote it, and its end of turn ("" if it has none)."""

    text: str
    is_action: bool
    end: str = ""


def prompt_ids(prompt: str | Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Returns the ids before the first action, for sampling and for logs.

    A text prompt gets the tokenizer's leading special tokens once: a rendered chat may already begin with the
    beginning-of-sequence token.
    """
    if not isinstance(prompt, str):
        return plain_ids(render(prompt, tokenizer, open_turn=True), tokenizer)
    ids = list(tokenizer(prompt)["input_ids"])
    # Some tokenizers append an end token to every text, which would end the episode before its first action.
    if ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token):
        ids.pop()
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos] and prompt.startswith(tokenizer.bos_token):
        del ids[0]
    return ids


def tokenise(
    episode: Episode, tokenizer: Tokenizer, ends: TurnEnds | None = None, *, as_written: bool = False
) -> Tokens:
    """Returns the ids and action mask of an episode: its sampled ids, or else ids encoded from its text.

    The end of the response is an action too: the end of sequence for text, the template's end of turn for chat, also
    for chat rendered as text. A truncated response has no end, and a response that contains its end gets no second one.

    Args:
        episode: the episode.
        tokenizer: the policy's tokenizer.
        ends: the end-of-turn tokens; by default those of the tokenizer.
        as_written: encode a turn that the chat template does not render completely as written (`turn_as_written`).

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
    prompt = prompt_ids(episode.prompt, tokenizer)
    if not prompt:
        raise InputError("the prompt has no tokens", "prompt")
    text, end = split_end(episode.completion, tokenizer, ends)
    if end is None and not episode.truncated:
        end = ends.of_chat if ends.open_turn(episode.prompt) else ends.of_text
    response = continuation_ids(prompt, text, tokenizer)
    return _assemble([(prompt, False), (response if end is None else [*response, end], True)])


def _tokenise_chat(episode: Episode, tokenizer: Tokenizer, ends: TurnEnds, as_written: bool) -> Tokens:
    spans = list(chat_spans(episode, tokenizer, as_written=as_written))
    with suppress(InputError):  # it is raised again below, if it stays
        found = _assemble(_encoded_spans(spans, tokenizer, ends, _CONTEXT))
        if decode(found.ids.tolist(), tokenizer) == "".join(span.text + span.end for span in spans):
            return found
    return _assemble(_encoded_spans(spans, tokenizer, ends, None))


def _encoded_spans(
    spans: Sequence[TextSpan], tokenizer: Tokenizer, ends: TurnEnds, context: int | None
) -> list[tuple[list[int], bool]]:
    """Returns the ids of each span and whether they are actions. A text is decoded after the last `context` ids before
    it (None: all), so that a conversation of many turns is not decoded from its beginning for each."""
    runs: list[tuple[list[int], bool]] = []
    prefix: list[int] = []
    for span in spans:
        before = prefix if context is None else prefix[-context:]
        ids = continuation_ids(before, span.text, tokenizer) + plain_ids(span.end, tokenizer)
        if span.end and ids[-1] not in ends.stop:
            raise InputError(
                f"the chat template ends a turn with {span.end!r}, which does not stop generation; add it to "
                "eos_token_id of the model's generation config",
                "chat_template",
            )
        runs.append((ids, span.is_action))
        prefix += ids
    return runs


def chat_spans(episode: Episode, tokenizer: Tokenizer, *, as_written: bool = False) -> Iterator[TextSpan]:
    """Yields the rendered conversation as alternating spans; only the assistant's text is an action.

    A turn is what the template adds when the assistant's message is appended to an open prompt, up to and including
    the end of turn; what the template writes after that belongs to the observation. If the template writes no end of
    turn (as MiniCPM's), the end of sequence is used, so that the policy learns to stop.

    Raises:
        InputError: the template changes earlier turns when later ones are added, so that no single sequence has all
            states of the policy, or it leaves out a tool.
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
        yield TextSpan(turn.state[len(done) :], is_action=False)
        is_cut = k == len(messages) - 1 and episode.truncated
        yield TextSpan(turn.text, is_action=True, end="" if is_cut else turn.end or tokenizer.eos_token or "")
        done = "".join(turn)


def plain_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Returns the ids of a text without added special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def decode(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Decodes ids exactly: special tokens are kept, spaces are not cleaned up."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def response_text(ids: Sequence[int], tokenizer: Tokenizer, ends: TurnEnds | None = None) -> str:
    """Decodes sampled ids for graders and environments, without special tokens and ends of turn."""
    special = (ends or turn_ends(tokenizer)).special
    return decode([int(i) for i in ids if int(i) not in special], tokenizer)


def continuation_ids(before: list[int], text: str, tokenizer: Tokenizer) -> list[int]:
    """Returns ids for `text` such that `before` + ids decodes to the concatenated text.

    Tokenises the text by itself first. For tokenizers that put a space before every text, it then tries the text
    after a line break, whose ids are removed again.

    Raises:
        InputError: neither round-trips the text.
    """
    if not text:
        return []
    expected = decode(before, tokenizer) + text
    ids = plain_ids(text, tokenizer)
    if decode(before + ids, tokenizer) == expected:
        return ids
    anchor = plain_ids("\n", tokenizer)
    anchored = plain_ids("\n" + text, tokenizer)[len(anchor) :]
    if decode(before + anchored, tokenizer) == expected:
        return anchored
    raise InputError(
        "the tokenizer does not give this text back (unknown characters or a normaliser?); use the tokenizer "
        "of the policy that generated it, or a byte-level one",
        "completion",
    )


def _assemble(runs: list[tuple[list[int], bool]]) -> Tokens:
    ids = [i for run, _ in runs for i in run]
    mask = [is_action for run, is_action in runs for _ in run]
    return Tokens(np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=np.bool_))
