"""Engine that runs a transformers model in this process, with a KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from stepcredit.engines.decoding import ContinuationRequest, DecodingState, EndConditions, Sampler, decode
from stepcredit.engines.engine import Generation, Request, SamplingParams, check_prompts
from stepcredit.engines.kv_cache import GenerationCache
from stepcredit.engines.noise import stream_key
from stepcredit.engines.packed import packed
from stepcredit.engines.stepping import CachedStepper
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.turns import turn_ends
from stepcredit.models.loading import load_policy, load_tokenizer, placed


def load(
    model: Any, *, tokenizer: Any | None, batch_size: int, dtype: str | None, trust_remote_code: bool
) -> TransformersEngine:
    """See `engine.load_engine`; on a CPU, the linear layers of a policy that is loaded here are packed."""
    if tokenizer is None:
        name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    if isinstance(model, str):
        init = {} if dtype is None else {"dtype": getattr(torch, dtype)}
        model = packed(placed(load_policy(model, trust_remote_code=trust_remote_code, tokenizer=tokenizer, **init)))
    return TransformersEngine(model, tokenizer, batch_size)


class TransformersEngine:
    """Batched sampling from a causal language model.

    Each prompt of a batch is prefilled once, however many samples it has; every further token costs one incremental
    forward pass; finished sequences leave the batch.

    Args:
        model: the policy.
        tokenizer: tokenizer of the policy.
        batch_size: responses sampled at a time.
        end_ids: ids that end a response; by default those from `episodes.turns.turn_ends`.

    Attributes:
        ends: tokens that end a response of this policy.
        max_length: context length of the model; None if unknown.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 64, end_ids: Sequence[int] | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.ends = turn_ends(tokenizer, getattr(model, "generation_config", None))
        if end_ids is not None:
            self.ends = self.ends._replace(stop=frozenset(end_ids))

    @property
    def max_length(self) -> int | None:
        """See `SteppingEngine`."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def stepper(self, params: SamplingParams, rule: StepRule) -> CachedStepper:
        """See `SteppingEngine.stepper`; puts the model into evaluation mode."""
        return CachedStepper(self.model.eval(), self.tokenizer, params, rule, self.ends.stop)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        """See `Engine.generate`.

        Raises:
            InputError: a prompt is empty, or fills the context.
        """
        limit = self.max_length
        check_prompts(requests, limit)
        was_training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(requests), self.batch_size):
                yield from self._generated(requests[start : start + self.batch_size], params, limit)
        finally:
            self.model.train(was_training)

    @torch.inference_mode()
    def _generated(self, requests: Sequence[Request], params: SamplingParams, limit: int | None) -> list[Generation]:
        """Generates one batch: prefills each distinct prompt once, then expands it to its samples."""
        distinct = {prompt: k for k, prompt in enumerate(dict.fromkeys(r.prompt_ids for r in requests))}
        cache = GenerationCache(self.model, list(distinct))
        expand = torch.tensor([distinct[r.prompt_ids] for r in requests], device=self.model.device)
        logits = cache.logits[expand]
        end = EndConditions(self.tokenizer if params.stop else None, params.stop, StepRule(()), self.ends.stop)
        state = DecodingState([self._draw(k, r, params, limit) for k, r in enumerate(requests)],
                          [r.prompt_ids[-1] for r in requests], end)  # fmt: skip
        decode(cache.selected(expand), logits, state, Sampler(params))
        return [
            Generation(np.array(p.ids, dtype=np.int32), np.array(p.log_prob, dtype=np.float32), p.stop_reason)
            for p in state.pieces()
            if p.stop_reason is not None
        ]

    def _draw(self, row: int, request: Request, params: SamplingParams, limit: int | None) -> ContinuationRequest:
        key = stream_key(params.seed, request.prompt_id, request.sample)
        room = params.max_new_tokens if limit is None else limit - len(request.prompt_ids)
        return ContinuationRequest(row, key, written=0, left=min(params.max_new_tokens, room))
