"""Generation by a plain loop, the baseline of collection: PyTorch's linear layers, caches that are concatenated, and
the normalised float64 distribution of every token. Draws the same tokens as the engine, up to rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from stepcredit.engines.engine import Generation, Request, SamplingParams
from stepcredit.engines.kv_cache import padded_left
from stepcredit.engines.noise import stream_key, uniform
from stepcredit.engines.sampling import warpers
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.episode import StopReason


def choose(logits: Tensor, noise: Tensor, chain: Sequence[object]) -> tuple[list[int], list[float]]:
    """Returns (token, log-probability) per row, by the inverse of the cumulative distribution."""
    scores = logits.double()
    for warper in chain:
        scores = warper(None, scores)  # type: ignore[operator]
    log_prob = scores.log_softmax(-1)
    cumulative = log_prob.exp().cumsum(-1)
    threshold = noise[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[-1] - 1)
    return token[:, 0].tolist(), log_prob.gather(-1, token)[:, 0].tolist()


class PlainEngine(TransformersEngine):
    """Engine of a model in memory: `PlainEngine(load_policy(folder), load_tokenizer(folder), batch_size)`.

    Prompts are prefilled once and finished sequences leave the batch, as in `TransformersEngine`; no stop strings.
    """

    @torch.inference_mode()
    def _generated(self, requests: Sequence[Request], params: SamplingParams, limit: int | None) -> list[Generation]:
        distinct = {prompt: k for k, prompt in enumerate(dict.fromkeys(r.prompt_ids for r in requests))}
        expand = torch.tensor([distinct[r.prompt_ids] for r in requests])
        cache, chain = DynamicCache(config=self.model.config), warpers(params)
        keys = np.array([stream_key(params.seed, r.prompt_id, r.sample) for r in requests])
        ids, mask = padded_left(list(distinct), self.model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._next(ids, mask, positions, cache)[expand]
        cache.batch_select_indices(expand)
        mask, position = mask[expand], positions[expand, -1:]
        drawn: list[list[int]] = [[] for _ in requests]
        log_probs: list[list[float]] = [[] for _ in requests]
        active = list(range(len(requests)))
        while True:
            noise = uniform(keys[active], np.array([len(drawn[k]) for k in active]))
            tokens, chosen = choose(logits, torch.from_numpy(noise), chain)
            for k, token, log_prob in zip(active, tokens, chosen, strict=True):
                drawn[k].append(token)
                log_probs[k].append(log_prob)
            going = [
                i for i, k in enumerate(active)
                if drawn[k][-1] not in self.ends.stop and len(drawn[k]) < params.max_new_tokens
            ]  # fmt: skip
            if not going:
                break
            if len(going) < len(active):
                cache.batch_select_indices(torch.tensor(going))
                mask, position, active = mask[going], position[going], [active[i] for i in going]
            mask, position = torch.nn.functional.pad(mask, (0, 1), value=1), position + 1
            logits = self._next(torch.tensor([[drawn[k][-1]] for k in active]), mask, position, cache)
        reasons = [StopReason.STOP if ids[-1] in self.ends.stop else StopReason.LENGTH for ids in drawn]
        columns = zip(drawn, log_probs, reasons, strict=True)
        return [Generation(np.array(i, np.int32), np.array(p, np.float32), r) for i, p, r in columns]

    def _next(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        given = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "logits_to_keep": 1}
        logits: Tensor = self.model(input_ids=ids, use_cache=True, **given).logits[:, -1]
        return logits
