"""The engine that runs a transformers model in this process, with a KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, StopStringCriteria

from stepcredit.engines.engine import Generation, Request, SamplingParams
from stepcredit.engines.noise import stream_key, uniform
from stepcredit.engines.sampling import choose, warpers
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.turns import turn_ends
from stepcredit.errors import InputError


class TransformersEngine:
    """Batched sampling from a causal language model.

    A batch's prompts are read once, however many samples are drawn of each; every further token costs one
    incremental forward pass; rows that have ended leave the batch.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        batch_size: responses drawn at a time.
        end_ids: ids that end a response; by default all that `episodes.turns.turn_ends` finds.

    Attributes:
        ends: what ends a response of this policy.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 64, end_ids: Sequence[int] | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.ends = turn_ends(tokenizer, getattr(model, "generation_config", None))
        if end_ids is not None:
            self.ends = self.ends._replace(stop=frozenset(end_ids))

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        """See `Engine.generate`.

        Raises:
            InputError: an empty prompt, or one that leaves no room for a response.
        """
        limit = getattr(self.model.config, "max_position_embeddings", None)
        for request in requests:
            if not request.prompt_ids:
                raise InputError("the prompt has no tokens", f"prompt {request.prompt_id}")
            if limit is not None and len(request.prompt_ids) >= limit:
                raise InputError(
                    f"the prompt has {len(request.prompt_ids)} tokens, the model reads {limit}",
                    f"prompt {request.prompt_id}",
                )
        stop = StopStringCriteria(self.tokenizer, list(params.stop)) if params.stop else None
        was_training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                yield from _Decoding(self, batch, params, warpers(params), stop, limit).run()
        finally:
            self.model.train(was_training)


class _Decoding:
    """The state of one batch: which rows still run, what each has, and the cache that belongs to them."""

    def __init__(
        self,
        engine: TransformersEngine,
        requests: Sequence[Request],
        params: SamplingParams,
        chain: LogitsProcessorList,
        stop: StopStringCriteria | None,
        limit: int | None,
    ) -> None:
        self.engine, self.params, self.chain, self.stop = engine, params, chain, stop
        self.device = engine.model.device
        self.keys = np.array([stream_key(params.seed, r.prompt_id, r.sample) for r in requests])
        self.prompts = [list(r.prompt_ids) for r in requests]
        room = limit if limit is not None else max(map(len, self.prompts)) + params.max_new_tokens
        self.room = [min(params.max_new_tokens, room - len(p)) for p in self.prompts]
        self.ids: list[list[int]] = [[] for _ in requests]
        self.log_prob: list[list[float]] = [[] for _ in requests]
        self.reason: list[StopReason] = [StopReason.LENGTH] * len(requests)
        self.active = np.arange(len(requests))

    @torch.inference_mode()
    def run(self) -> list[Generation]:
        """Draw until every row has ended."""
        logits = self._read_prompts()
        for position in range(self.params.max_new_tokens):
            token = self._draw(logits, position)
            keep = self._record(token)
            if not keep.any():
                break
            if not keep.all():
                self._drop(keep)
            logits = self._step(token[torch.from_numpy(keep)])
        return [
            Generation(np.array(i, dtype=np.int32), np.array(p, dtype=np.float32), r)
            for i, p, r in zip(self.ids, self.log_prob, self.reason, strict=True)
        ]

    def _read_prompts(self) -> Tensor:
        """The cache and the first logits: each different prompt is read once, then spread to its samples."""
        different = {tuple(p): i for i, p in enumerate(dict.fromkeys(map(tuple, self.prompts)))}
        longest = max(map(len, different))
        ids = torch.full((len(different), longest), self.engine.tokenizer.pad_token_id, device=self.device)
        self.mask = torch.zeros_like(ids)
        for prompt, row in different.items():
            ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=self.device)
            self.mask[row, longest - len(prompt) :] = 1
        self.cache = DynamicCache(config=self.engine.model.config)
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        out = self._forward(ids, positions)
        spread = torch.tensor([different[tuple(p)] for p in self.prompts], device=self.device)
        self.cache.batch_select_indices(spread)
        self.mask = self.mask[spread]
        self.position = positions[spread, -1:] + 1
        return out[spread]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self.engine.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]  # type: ignore[no-any-return]

    def _draw(self, logits: Tensor, position: int) -> Tensor:
        noise = None
        if self.params.temperature > 0:
            noise = torch.from_numpy(uniform(self.keys[self.active], position)).to(logits.device)
        token, log_prob = choose(logits, noise, self.chain)
        for row, t, p in zip(self.active, token.tolist(), log_prob.tolist(), strict=True):
            self.ids[row].append(t)
            self.log_prob[row].append(p)
        return token

    def _record(self, token: Tensor) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Mark the rows that end with this token; true where the row goes on."""
        stopped = self._meets_stop_string()
        keep = np.ones(len(self.active), dtype=np.bool_)
        for k, (row, t) in enumerate(zip(self.active, token.tolist(), strict=True)):
            if t in self.engine.ends.stop or stopped[k]:
                self.reason[row] = StopReason.STOP
                keep[k] = False
            elif len(self.ids[row]) >= self.room[row]:
                keep[k] = False
        return keep

    def _meets_stop_string(self) -> list[bool]:
        if self.stop is None:
            return [False] * len(self.active)
        tail = max(map(len, self.params.stop))
        rows = [self.ids[row][-tail:] for row in self.active]
        width = max(map(len, rows))
        pad = self.engine.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
        return [bool(x) for x in self.stop(ids, None)]

    def _drop(self, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        index = torch.from_numpy(np.flatnonzero(keep)).to(self.device)
        self.active = self.active[keep]
        self.cache.batch_select_indices(index)
        self.mask, self.position = self.mask[index], self.position[index]

    def _step(self, token: Tensor) -> Tensor:
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        logits = self._forward(token[:, None], self.position)
        self.position = self.position + 1
        return logits
