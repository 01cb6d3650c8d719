"""Completions of servers that take and give text: tokenised once, with a check that the ids give the text back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepcredit.engines.decoding import ContinuationRequest
from stepcredit.engines.engine import Generation, SamplingParams
from stepcredit.engines.noise import uniform
from stepcredit.engines.server.answers import field, listed
from stepcredit.engines.server.connection import Failure, Server, UnprovedError
from stepcredit.episodes.encoding import continuation_ids, decode
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.turns import TurnEnds, split_end
from stepcredit.errors import InputError, quoted

PATH = "/v1/completions"


async def completed(
    server: Server,
    prompt: Sequence[int],
    draw: ContinuationRequest,
    params: SamplingParams,
    tokenizer: Any,
    ends: TurnEnds,
) -> Generation:
    """Samples one response. Stop strings are looked for here: a server leaves them out, and need not say that it did.

    Args:
        server: the server.
        prompt: ids of the prompt.
        draw: key of the noise, and length limit.
        params: sampling parameters.
        tokenizer: the policy's tokenizer.
        ends: its end-of-turn tokens.

    Raises:
        Failure: no answer, or one that is not a completion.
        ServerError: the server refuses the request.
    """
    text = decode(prompt, tokenizer)
    bos = tokenizer.bos_token
    if bos and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        text = text.removeprefix(bos)  # the server's tokenizer adds it
    payload = {
        "model": server.model,
        "prompt": text,
        "max_tokens": draw.left,
        "temperature": params.temperature,
        "top_p": params.top_p if params.temperature else 1.0,
        "seed": int(uniform(np.array([draw.key], dtype=np.uint64), 0)[0] * 2**31),
    }
    choices = listed(await server.ask(PATH, payload, 200_000 + 100 * draw.left), "choices")
    if len(choices) != 1:
        raise Failure(f"{len(choices)} choices, where 1 was asked for")
    written, reason = field(choices[0], "text"), field(choices[0], "finish_reason")
    if not isinstance(written, str) or reason not in ("stop", "length"):
        raise Failure(f"a completion {quoted(written)} that ended by {quoted(reason)}")
    return _generation(written, reason == "length", list(prompt), params, tokenizer, ends)


def _generation(
    written: str, cut: bool, prompt: list[int], params: SamplingParams, tokenizer: Any, ends: TurnEnds
) -> Generation:
    """Encodes a completion, up to its first stop string or its end."""
    at = min((written.find(s) + len(s) for s in params.stop if s in written), default=None)
    body, end = (written[:at], None) if at is not None else split_end(written, tokenizer, ends)
    if at is None and end is None and not cut:
        end = ends.of_chat if ends.open_turn(decode(prompt, tokenizer)) else ends.of_text
    try:
        ids = continuation_ids(prompt, body, tokenizer)
    except InputError as error:
        raise UnprovedError(f"a completion without token ids, {quoted(body, 100)}: {error.what}") from error
    ids += [] if end is None else [end]
    if not ids:
        raise Failure("an empty completion that was cut")
    reason = StopReason.LENGTH if cut and at is None and end is None else StopReason.STOP
    unknown = np.full(len(ids), np.nan, dtype=np.float32)
    return Generation(np.array(ids, dtype=np.int32), unknown, reason, retokenised=True)
