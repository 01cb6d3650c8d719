"""The decoding loop before it was made faster: the baseline of collection, kept as it was, for whole responses.

For each token: a double-precision softmax and cumulative sum over the vocabulary, then each response by itself in
Python: its text, its end, its lists. Finished responses leave the batch at once. The noise is the engine's own, so that
both draw the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from stepcredit.engines.engine import Generation, Request, SamplingParams
from stepcredit.engines.noise import stream_key, uniform
from stepcredit.episodes.alignment import TokenTexts
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.turns import turn_ends


class EarlierEngine:
    """Batched sampling at temperature 1, each prompt prefilled once.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        batch_size: responses sampled at a time.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.ends = turn_ends(tokenizer, getattr(model, "generation_config", None))

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        """See `Engine.generate`."""
        for start in range(0, len(requests), self.batch_size):
            yield from _Batch(self, requests[start : start + self.batch_size], params).generated()


class _Batch:
    """A batch of responses; `active` lists the unfinished ones, which are the rows of the cache."""

    def __init__(self, engine: EarlierEngine, requests: Sequence[Request], params: SamplingParams) -> None:
        self.engine, self.requests, self.params = engine, requests, params
        self.texts = TokenTexts(engine.tokenizer) if params.stop else None
        self.keys = [stream_key(params.seed, request.prompt_id, request.sample) for request in requests]
        self.active = list(range(len(requests)))
        self.ids: list[list[int]] = [[] for _ in requests]
        self.log_prob: list[list[float]] = [[] for _ in requests]
        self.text = [""] * len(requests)
        self.reason = [StopReason.LENGTH] * len(requests)

    def generated(self) -> list[Generation]:
        """Samples every response to its end."""
        logits = self._prefill()
        while True:
            chosen = self._sampled(logits)
            in_batch = self.active
            self.active = [k for k, *token in zip(in_batch, *chosen, strict=True) if self._append(k, *token)]
            if not self.active:
                break
            if len(self.active) < len(in_batch):
                going = set(self.active)
                self._select(torch.tensor([row for row, k in enumerate(in_batch) if k in going]))
            logits = self._read_on([self.ids[k][-1] for k in self.active])
        return [
            Generation(np.array(ids, np.int32), np.array(log_prob, np.float32), reason)
            for ids, log_prob, reason in zip(self.ids, self.log_prob, self.reason, strict=True)
        ]

    def _prefill(self) -> Float[Tensor, "N V"]:
        distinct = {prompt: k for k, prompt in enumerate(dict.fromkeys(r.prompt_ids for r in self.requests))}
        width = max(map(len, distinct))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in distinct])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in distinct])
        self.mask = mask.to(self.engine.model.device)
        self.position = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.cache = DynamicCache(config=self.engine.model.config)
        expand = torch.tensor([distinct[r.prompt_ids] for r in self.requests])
        logits = self._forward(ids)[expand]
        self._select(expand)
        return logits

    def _forward(self, ids: Tensor) -> Float[Tensor, "N V"]:
        output = self.engine.model(
            input_ids=ids.to(self.engine.model.device),
            attention_mask=self.mask,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]  # type: ignore[no-any-return]

    def _read_on(self, tokens: list[int]) -> Float[Tensor, "N V"]:
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        self.position = self.position[:, -1:] + 1
        return self._forward(torch.tensor(tokens)[:, None])

    def _select(self, index: Tensor) -> None:
        index = index.to(self.engine.model.device)
        self.cache.batch_select_indices(index)
        self.mask, self.position = self.mask[index], self.position[index]

    def _sampled(self, logits: Float[Tensor, "N V"]) -> tuple[list[int], list[float]]:
        written = np.array([len(self.ids[k]) for k in self.active], dtype=np.int64)
        noise = torch.from_numpy(uniform(np.array([self.keys[k] for k in self.active], np.uint64), written))
        log_prob = logits.double().log_softmax(-1)
        cumulative = log_prob.exp().cumsum(-1)
        threshold = noise.to(cumulative)[:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
        return token.tolist(), log_prob.gather(-1, token[:, None])[:, 0].tolist()

    def _append(self, k: int, token: int, log_prob: float) -> bool:
        """Appends a token to one response; returns whether it needs another one."""
        before = self.ids[k][-1] if self.ids[k] else self.requests[k].prompt_ids[-1]
        ends = token in self.engine.ends.stop
        self.text[k] += "" if self.texts is None or ends else self.texts([before, token])[1]
        self.ids[k].append(token)
        self.log_prob[k].append(log_prob)
        if ends or any(stop in self.text[k] for stop in self.params.stop):
            self.reason[k] = StopReason.STOP
            return False
        return len(self.ids[k]) < self.params.max_new_tokens
