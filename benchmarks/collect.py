"""Collection: responses sampled by SmolLM2-135M, in tokens a second, against the decoding loop of before.

Both draw with the same noise, so in float32 they draw the same tokens, which is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.earlier_decoding import EarlierEngine
from benchmarks.measure import alternated, machine, median, memory, ratio
from benchmarks.workloads import WORKLOADS, Workload
from stepcredit.engines.engine import Engine, Generation, Request, SamplingParams, load_engine
from stepcredit.episodes.encoding import prompt_ids

SAMPLES, MAX_NEW_TOKENS, STOP = 8, 64, ("\nQuestion",)
OURS: dict[str, dict[str, Any]] = {"float32": {}, "bfloat16": {"dtype": "bfloat16"}}
"""Schemes of ours: name → arguments of `load_engine`."""
BASELINE = "before"
PROMPTS = {"cpu": 8, "cuda": 64}


def engines(workload: Workload, device: str, batch_size: int) -> dict[str, Engine]:
    """Returns the engine of each scheme, and the baseline's."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    policy = workload.policy(device, dtype)
    found: dict[str, Engine] = {BASELINE: EarlierEngine(policy, workload.tokenizer, batch_size)}
    for name, settings in OURS.items():
        if settings and not workload.folder:  # a model in memory keeps its precision
            continue
        model = str(workload.folder) if workload.folder else policy
        found[name] = load_engine(model, tokenizer=workload.tokenizer, batch_size=batch_size, **settings)
    return found


def requests(workload: Workload) -> list[Request]:
    """Returns the requests for every prompt."""
    prompts = {e.prompt_id: e for e in workload.episodes}
    ids = {
        name: prompt_ids(e.prompt, workload.tokenizer) if e.tokens is None else e.tokens.ids[~e.tokens.action_mask]
        for name, e in prompts.items()
    }
    return [Request(tuple(map(int, row)), name, k) for name, row in ids.items() for k in range(SAMPLES)]


def rows(device: str, repeats: int) -> list[dict[str, Any]]:
    """Measures every scheme; returns a row for each of ours."""
    workload = WORKLOADS["qwen" if device == "cuda" else "smollm2"](PROMPTS[device])
    wanted = requests(workload)
    by_name = engines(workload, device, len(wanted))
    return measured(by_name, wanted, workload, device, repeats)


def measured(
    by_name: dict[str, Engine], wanted: list[Request], workload: Workload, device: str, repeats: int
) -> list[dict[str, Any]]:
    """Measures engines on requests, after one short run of each."""
    params = SamplingParams(MAX_NEW_TOKENS, seed=0, stop=STOP)
    drawn: dict[str, list[Generation]] = {}
    above: dict[str, int] = {}

    def collecting(name: str) -> Callable[[], None]:
        def run() -> None:
            with memory(device) as held:
                drawn[name] = list(by_name[name].generate(wanted, params))
            above[name] = held.above

        return run

    for engine in by_name.values():
        list(engine.generate(wanted[:2], SamplingParams(4, seed=0)))
    seconds = alternated({name: collecting(name) for name in by_name}, repeats, device)
    speed = {name: tokens(drawn[name]) / median(times) for name, times in seconds.items()}
    return [
        {
            "part": "collect",
            "baseline": BASELINE,
            "scheme": name,
            "workload": workload.label,
            "vocab": workload.config.vocab_size,
            "hidden": workload.config.hidden_size,
            "tokens": tokens(drawn[name]),
            "responses": len(wanted),
            "time_ratio": ratio(speed[name], speed[BASELINE]),
            "memory_ratio": ratio(above[BASELINE], above[name]),
            "memory": above[name],
            "seconds": median(seconds[name]),
            "baseline_seconds": median(seconds[BASELINE]),
            "tokens_per_second": speed[name],
            "baseline_tokens_per_second": speed[BASELINE],
            "equal_draws": equal(drawn[name], drawn[BASELINE]) / len(wanted),
            "repeats": repeats,
            **machine(device),
        }
        for name in by_name
        if name != BASELINE
    ]


def tokens(drawn: list[Generation]) -> int:
    """Returns the number of tokens generated."""
    return sum(len(generation.ids) for generation in drawn)


def equal(drawn: list[Generation], others: list[Generation]) -> int:
    """Returns the number of responses with the same tokens."""
    return sum(np.array_equal(a.ids, b.ids) for a, b in zip(drawn, others, strict=True))
