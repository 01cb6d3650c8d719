"""Engine with scripted responses, for tests and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from stepcredit.engines.engine import Generation, Request, SamplingParams
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.turns import turn_ends


class ScriptedEngine:
    """Engine that returns the ids given by a script, truncated at the length limit.

    Args:
        script: maps a request to response ids, end token included; its exceptions are not caught.
        tokenizer: tokenizer of the ids.
        log_prob: log-probability reported for every token.
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
            truncated = np.array(ids[: params.max_new_tokens], dtype=np.int32)
            yield Generation(truncated, np.full(len(truncated), self.log_prob, dtype=np.float32), reason)
