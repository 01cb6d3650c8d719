"""Engine that samples from servers: with token ids where they give them, otherwise from text to text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import GenerationConfig

from stepcredit.engines.decoding import ContinuationRequest, EndConditions
from stepcredit.engines.engine import Generation, Request, SamplingParams, Servers, check_prompts
from stepcredit.engines.noise import stream_key
from stepcredit.engines.server.answers import Proof
from stepcredit.engines.server.connection import Connections, Server
from stepcredit.engines.server.reading import Continuer
from stepcredit.engines.server.recognition import Served, check_tokenizer, recognised
from stepcredit.engines.server.server_stepping import ServerStepper
from stepcredit.engines.server.text import completed
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.turns import TurnEnds, turn_ends
from stepcredit.errors import InputError
from stepcredit.models.gguf import is_gguf
from stepcredit.models.loading import load_config, load_tokenizer


def load(
    model: Any,
    *,
    tokenizer: Any | None,
    batch_size: int,
    dtype: str | None,
    trust_remote_code: bool,
    servers: Servers | None = None,
) -> TextServerEngine:
    """See `engine.load_engine`; of the policy, only the config and the tokenizer are loaded.

    Raises:
        InputError: no addresses are given, a setting does not apply, or a server cannot be reached, serves another
            policy or has another tokenizer.
    """
    if servers is None or not servers.base_url:
        raise InputError("the addresses of the servers are missing; give --base_url", "base_url")
    if dtype is not None:
        raise InputError("is that of the server; leave it out", "dtype")
    if not isinstance(model, str):
        raise InputError("a model in memory is on no server; name its folder", "model")
    tokenizer = tokenizer or load_tokenizer(model, trust_remote_code=trust_remote_code)
    policy = Policy.of(model, tokenizer, trust_remote_code)
    connections = Connections(servers)
    try:
        wanted, exact = servers.server_model or model, servers.server_model is not None

        async def begun(server: Server) -> Served:
            found = await recognised(server, wanted, exact)
            await check_tokenizer(server, tokenizer, policy.ends)
            return found

        found = connections.each(begun)
        if len({served.dialect is None for served in found}) > 1:
            raise InputError("some of the servers give token ids and others do not; use those that do", "base_url")
    except BaseException:
        connections.close()
        raise
    contexts = [served.context for served in found if served.context is not None]
    policy = policy._replace(max_length=min([*contexts, policy.max_length or 2**31]) if contexts else policy.max_length)
    kind = TextServerEngine if found[0].dialect is None else ServerEngine
    return kind(policy, connections, batch_size)


class Policy(NamedTuple):
    """What is known of a policy without its weights: tokenizer, ends, number of ids, and context length."""

    tokenizer: Any
    ends: TurnEnds
    vocabulary: int
    max_length: int | None

    @classmethod
    def of(cls, model: str, tokenizer: Any, trust_remote_code: bool) -> Policy:
        """Reads the configs of a model; a `.gguf` file has none."""
        if is_gguf(model):
            return cls(tokenizer, turn_ends(tokenizer), len(tokenizer), None)
        whole = load_config(model, trust_remote_code=trust_remote_code)
        config = whole.get_text_config()
        try:
            generation = GenerationConfig.from_pretrained(model)
        except OSError:  # there is none: as transformers does
            generation = GenerationConfig.from_model_config(whole)
        length = getattr(config, "max_position_embeddings", None)
        return cls(tokenizer, turn_ends(tokenizer, generation), max(config.vocab_size, len(tokenizer)), length)


class TextServerEngine:
    """Engine of servers that take and give text.

    A response is tokenised once, and marked as such; it has no log-probabilities.

    Args:
        policy: what is known of the policy.
        connections: the servers.
        batch_size: responses sampled at a time in conversations and beam searches.
    """

    def __init__(self, policy: Policy, connections: Connections, batch_size: int) -> None:
        self.tokenizer, self.ends, self.batch_size = policy.tokenizer, policy.ends, batch_size
        self.max_length = policy.max_length
        self._policy, self._connections = policy, connections

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        """See `Engine.generate`; requests are sent as fast as the servers take them.

        Raises:
            InputError: a prompt is empty or fills the context, or a filter that the servers do not have.
            ServerError: a server refuses a request, or all have failed.
        """
        check_prompts(requests, self.max_length)
        return self._generated(requests, params)

    def _generated(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        if params.temperature and params.top_k:
            raise InputError("servers without token ids have no top-k filter; leave it out", "top_k")

        def job(request: Request) -> Any:
            async def generated(server: Server) -> Generation:
                draw = self._draw(request, params)
                return await completed(server, request.prompt_ids, draw, params, self.tokenizer, self.ends)

            return generated

        return self._connections.results([job(request) for request in requests])

    def _draw(self, request: Request, params: SamplingParams) -> ContinuationRequest:
        key = stream_key(params.seed, request.prompt_id, request.sample)
        room = params.max_new_tokens if self.max_length is None else self.max_length - len(request.prompt_ids)
        return ContinuationRequest(0, key, written=0, left=min(params.max_new_tokens, room))


class ServerEngine(TextServerEngine):
    """Engine of servers that take and give token ids: a `SteppingEngine`."""

    def stepper(self, params: SamplingParams, rule: StepRule) -> ServerStepper:
        """See `SteppingEngine.stepper`."""
        end = EndConditions(self.tokenizer, params.stop, rule, self.ends.stop)
        return ServerStepper(self._connections, Continuer(params, end, self._proof))

    @property
    def _proof(self) -> Proof:
        return Proof(self.tokenizer, self.ends, self._policy.vocabulary)

    def _generated(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        end = EndConditions(self.tokenizer if params.stop else None, params.stop, StepRule(()), self.ends.stop)
        continuer = Continuer(params, end, self._proof)

        def job(request: Request) -> Any:
            async def generated(server: Server) -> Generation:
                piece = (await continuer.sampled(server, request.prompt_ids, self._draw(request, params))).read()
                assert piece.stop_reason is not None
                ids, log_prob = np.array(piece.ids, dtype=np.int32), np.array(piece.log_prob, dtype=np.float32)
                return Generation(ids, log_prob, piece.stop_reason)

            return generated

        return self._connections.results([job(request) for request in requests])
