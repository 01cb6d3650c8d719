"""An engine that says what it was told to say, for tests and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from stepcredit.engines.engine import Generation, Request, SamplingParams
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.turns import turn_ends


class ScriptedEngine:
    """Answers each request with the ids a script gives, cut at the length limit as a model would be.

    Args:
        script: request to response ids, end token included; an exception it raises is the engine's own.
        tokenizer: whose ids these are.
        log_prob: reported for every token.
    """

    batch_size = 64

    def __init__(self, script: Callable[[Request], Sequence[int]], tokenizer: Any, log_prob: float = -1.0) -> None:
        self.script = script
        self.tokenizer = tokenizer
        self.ends = turn_ends(tokenizer)
        self.log_prob = log_prob

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        """See `Engine.generate`."""
        for request in requests:
            ids = list(self.script(request))
            reason = StopReason.LENGTH if len(ids) > params.max_new_tokens else StopReason.STOP
            kept = np.array(ids[: params.max_new_tokens], dtype=np.int32)
            yield Generation(kept, np.full(len(kept), self.log_prob, dtype=np.float32), reason)
