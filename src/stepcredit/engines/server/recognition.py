"""What a server is, asked once at the start: its dialect, the policy that it serves, its tokenizer and context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from stepcredit.engines.server.answers import field, listed
from stepcredit.engines.server.connection import NotOffered, Server, ServerError
from stepcredit.engines.server.dialects import VLLM, Dialect, LlamaCpp, SGLang
from stepcredit.episodes.turns import TurnEnds
from stepcredit.errors import InputError, quoted

_PROBES = (
    "Question: 12 + 30 = ?\nAnswer: 12 + 30 = 42.\n\nSo  the answer is 42",
    "\tif x² ≥ 3·π:\n\t\treturn 'naïve façade'  # 日本語 😀\n",
)
"""Texts that tokenizers split differently: digits, white space, other scripts."""
_GENERIC = ((), ("policy",), ("value",))
"""Names of folders that training writes, of which there are many."""


_RESERVED = 2
"""Tokens of the context that SGLang keeps for itself."""


class Served(NamedTuple):
    """What a server is.

    Attributes:
        dialect: the interface that it speaks; None: text in, text out.
        context: number of tokens that its model reads; None if it does not say.
    """

    dialect: Dialect | None
    context: int | None


async def recognised(server: Server, wanted: str, exact: bool) -> Served:
    """Finds the dialect of a server, and the name under which it serves the policy.

    Args:
        server: the server; its `model` and `dialect` are set.
        wanted: name of the policy.
        exact: whether the server must have the policy under just this name; otherwise the end of a path suffices.

    Raises:
        Failure: no answer.
        ServerError: it has no interface that is known, or serves another policy.
    """
    models = await _offered(server)
    props = await _of(server, "/props")
    context: Any = None
    settings = props.get("default_generation_settings") if isinstance(props, dict) else None
    if isinstance(settings, dict):
        server.dialect = LlamaCpp()
        context = settings.get("n_ctx")
    elif await _says(server, "/get_model_info", "model_path"):
        server.dialect = SGLang()
    elif await _says(server, "/version", "version"):
        server.dialect = VLLM()
    if models is None and server.dialect is None:
        raise ServerError("offers neither /v1/models nor /props; is this the address of an OpenAI-compatible server?",
                          server.name)  # fmt: skip
    listing = [str(entry.get("id")) for entry in models or ()]
    if server.dialect is None and exact:  # transformers serve lists the hub's cache, and loads what it is asked for
        listing = []
    server.model = _name(server, listing, wanted, exact)
    own = next((entry for entry in models or () if entry.get("id") == server.model), {})
    if own.get("max_model_len") is None:  # vLLM's LoRA adapters have the length of their parent
        own = next((entry for entry in models or () if entry.get("id") == own.get("parent")), own)
    context = context or own.get("max_model_len")
    if not isinstance(context, int) or context <= 0:
        return Served(server.dialect, None)
    return Served(server.dialect, context - (_RESERVED if isinstance(server.dialect, SGLang) else 0))


async def named(server: Server, wanted: str) -> None:
    """Finds the name under which a server serves a model; raises as `recognised`."""
    offered = await _offered(server)
    server.model = _name(server, [str(entry.get("id")) for entry in offered or ()], wanted, exact=False)


async def _offered(server: Server) -> list[dict[str, Any]] | None:
    """Returns the models that a server lists; None if it lists none."""
    models = await _of(server, "/v1/models")
    if models is None:
        return None
    return [entry for entry in listed(models, "data") if isinstance(entry, dict)]


async def _says(server: Server, path: str, key: str) -> bool:
    """Whether an address answers with an object that has a key; some servers answer every address with an error that
    has the status of success."""
    said = await _of(server, path)
    return isinstance(said, dict) and key in said


async def _of(server: Server, path: str) -> Any:
    """Returns what a server says at an address; None if it has none."""
    try:
        return await server.ask(path)
    except NotOffered:
        return None


def _name(server: Server, offered: Sequence[str], wanted: str, exact: bool) -> str:
    """Returns the name of the policy among those offered."""
    if wanted in offered or not offered:
        return wanted
    alike = [] if exact else [name for name in offered if _are_alike(name, wanted)]
    if len(alike) != 1:
        several = ", ".join(quoted(name) for name in offered[:5]) + (", …" if len(offered) > 5 else "")
        raise ServerError(f"serves {several}, not {quoted(wanted)}; serve that, or give its name there as "
                          "--server_model", server.name)  # fmt: skip
    return alike[0]


def _are_alike(one: str, other: str) -> bool:
    """Whether the shorter of two paths ends the longer one, and is more than the name that every saved policy has."""
    shorter, longer = sorted((PurePath(name.removesuffix(".gguf")).parts for name in (one, other)), key=len)
    return longer[-len(shorter) :] == shorter and shorter not in _GENERIC


async def check_tokenizer(server: Server, tokenizer: Any, ends: TurnEnds) -> None:
    """Checks that the server's tokenizer gives the policy's ids for a few texts and its special tokens.

    A server without a tokenizer of its own is asked for a token after each text, and counts the tokens before it.

    Raises:
        Failure: no answer.
        InputError: it does not.
    """
    special = [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(ends.stop)]
    for text in (*_PROBES, f"{ends.opening}Hi{''.join(special)}\n{ends.closing}"):
        own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if server.dialect is not None:
            path, payload = server.dialect.tokenize, server.dialect.text_payload(text, server.model)
            try:
                theirs = listed(await server.ask(path, payload), "tokens")
            except NotOffered:  # ids and text are compared with every response
                return
            is_same, told = theirs == own, f"{quoted(theirs)} instead of {quoted(own)}"
        else:
            payload = {"model": server.model, "prompt": text, "max_tokens": 1, "temperature": 0.0}
            answer = await server.ask("/v1/completions", payload)
            if not isinstance(answer, dict) or answer.get("usage") is None:
                return
            count = field(answer, "usage", "prompt_tokens")
            is_same = count in (len(own), len(tokenizer(text)["input_ids"]))
            told = f"{quoted(count)} tokens instead of {len(own)}"
        if not is_same:
            raise InputError(
                f"its tokenizer is not that of --model: for {quoted(text, 40)} it gives {told}", server.name
            )
