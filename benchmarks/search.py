"""A step beam with caches, beside one that reads everything again: python benchmarks/search.py [--output FILE]

The baseline is the published scheme by its description: each of the K continuations of all beams is an engine call of
its own on the whole text so far, and the critic reads every candidate from its first token. Both draw the same
sequences, which is checked. Random weights, whose steps are about ten tokens long; no network. Medians of several
repeats, and their ratio; then the time of ours against the number of problems and of beams.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from stepcredit.engines.decoding import (
    Continuation,
    ContinuationRequest,
    DecodingState,
    EndConditions,
    NextStep,
    Sampler,
)
from stepcredit.engines.engine import Request, SamplingParams
from stepcredit.engines.kv_cache import padded_left
from stepcredit.engines.stepping import CachedStepper, Stepper
from stepcredit.episodes.steps import StepRule
from stepcredit.files import write_json
from stepcredit.models.loading import value_model_from
from stepcredit.searching.beam import beam_search
from stepcredit.searching.responses import SearchResult
from stepcredit.searching.scorers import Reading, Scorer, Scoring, ValueScorer
from stepcredit.searching.spec import SearchSpec

VOCABULARY = 2_000
ENDS = frozenset(range(10))
"""Ten of 2,000 tokens end a response, two hundred a line."""
LINES = range(10, 210)
RULE = StepRule(("\n",), max_tokens=24)


class Words:
    """A tokenizer whose tokens are words."""

    pad_token_id = 0

    def decode(self, ids: Sequence[int], **given: Any) -> str:
        """The words, some of which end a line."""
        return "".join("w\n" if i in LINES else " w" for i in ids)


def models(hidden: int, layers: int) -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
    )
    policy = LlamaForCausalLM(config).eval()
    value = value_model_from(policy).eval()
    with torch.no_grad():
        value.score.weight.normal_(0, 1.0)
    return policy, value


class RereadingStepper:
    """Every continuation is drawn from the whole text so far, read anew; rows that have ended are carried along."""

    def __init__(self, model: Any, end: EndConditions) -> None:
        self.model, self.end = model, end

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """See `Stepper.start`."""
        self.rows = [list(prompt) for prompt in prompts]
        self.seen: list[NextStep | None] = [None] * len(prompts)

    @torch.inference_mode()
    def draw(self, draws: Sequence[ContinuationRequest]) -> list[Continuation]:
        """See `Stepper.draw`: one call for the first continuations of all beams, one for the second ones, …"""
        calls: list[list[int]] = []
        seen: dict[int, int] = {}
        for number, draw in enumerate(draws):
            seen[draw.row] = k = seen.get(draw.row, -1) + 1
            calls += [[]] if k == len(calls) else []
            calls[k].append(number)
        pieces: dict[int, Continuation] = {}
        following: dict[int, NextStep | None] = {}
        for members in calls:
            drawing = self._call([draws[k] for k in members])
            pieces.update(zip(members, drawing.pieces(), strict=True))
            following.update(zip(members, drawing.next, strict=True))
        self.pieces = [pieces[k] for k in range(len(draws))]
        self.following = [following[k] for k in range(len(draws))]
        self.grown = [self.rows[d.row] + list(p.ids) for d, p in zip(draws, self.pieces, strict=True)]
        return self.pieces

    def _call(self, draws: Sequence[ContinuationRequest]) -> DecodingState:
        ids, mask = padded_left([self.rows[draw.row] for draw in draws], self.model.device)
        cache = DynamicCache(config=self.model.config)
        before, seen = [self.rows[draw.row][-1] for draw in draws], [self.seen[draw.row] for draw in draws]
        drawing, sampler = DecodingState(draws, before, self.end, seen), Sampler(SamplingParams(1))
        position, begins = mask.cumsum(-1) - 1, True
        while True:
            given = {"attention_mask": mask, "position_ids": position.clamp(min=0)}
            logits = self.model(input_ids=ids, past_key_values=cache, logits_to_keep=1, **given).logits[:, -1]
            active = logits[torch.tensor(drawing.active)]
            chosen = drawing.first(active, sampler) if begins else sampler(active, drawing.noise())
            drawing.record(*chosen, active)
            begins = False
            if not drawing.active:
                return drawing
            ids = torch.tensor([[row[-1]] for row in drawing.ids])
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            position = position[:, -1:] + 1

    def keep(self, chosen: Sequence[int]) -> None:
        """See `Stepper.keep`."""
        self.rows = [self.grown[k] for k in chosen]
        self.seen = [self.following[k] for k in chosen]


class RereadingScorer:
    """A critic that reads every candidate from its first token."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Scoring, NDArray[np.float64], list[int]]:
        """See `Scorer.start`."""
        self.rows = [list(prompt) for prompt in prompts]
        return self, self._values(self.rows), [len(p) for p in prompts]

    def score(self, readings: Sequence[Reading]) -> tuple[NDArray[np.float64], list[int]]:
        """See `Scoring.score`."""
        self.grown = [self.rows[r.row] + list(r.ids) for r in readings]
        read = [self.rows[r.row] + list(r.read) for r in readings]
        return self._values(read), [len(row) for row in read]

    def keep(self, chosen: Sequence[int]) -> None:
        """See `Scoring.keep`."""
        self.rows = [self.grown[k] for k in chosen]

    @torch.inference_mode()
    def _values(self, rows: list[list[int]]) -> NDArray[np.float64]:
        ids, mask = padded_left(rows, self.model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return out.logits[:, -1, 0].double().numpy()


def requests(problems: int) -> list[Request]:
    rng = np.random.default_rng(0)
    return [
        Request(tuple(rng.integers(210, VOCABULARY, rng.integers(100, 250)).tolist()), f"p{k}") for k in range(problems)
    ]


def timed(run: Callable[[], list[SearchResult]], repeats: int) -> tuple[float, list[SearchResult]]:
    seconds, found = [], run()
    for _ in range(repeats):
        start = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policy, value = models(args.hidden, args.layers)
    sampling = SamplingParams(96, seed=0)

    def ours(prompts: list[Request], spec: SearchSpec) -> list[SearchResult]:
        stepper: Stepper = CachedStepper(policy, Words(), sampling, RULE, ENDS)
        scorer: Scorer = ValueScorer(value)
        return beam_search(prompts, stepper, scorer, spec)

    def theirs(prompts: list[Request], spec: SearchSpec) -> list[SearchResult]:
        end = EndConditions(Words(), (), RULE, ENDS)
        return beam_search(prompts, RereadingStepper(policy, end), RereadingScorer(value), spec)

    def beam(width: int) -> SearchSpec:
        return SearchSpec("beam", width, sampling, continuations=4)

    twelve = requests(12)
    fast, found = timed(lambda: ours(twelve, beam(4)), args.repeats)
    slow, same = timed(lambda: theirs(twelve, beam(4)), args.repeats)
    equal = [[r.ids for r in a.pool] == [r.ids for r in b.pool] for a, b in zip(found, same, strict=True)]

    def grown(problems: int, width: int) -> dict[str, Any]:
        took, all_found = timed(lambda: ours(requests(problems), beam(width)), args.repeats)
        drawn = sum(f.tokens_generated for f in all_found)
        return {"seconds": round(took, 3), "tokens": drawn, "ms_per_token": round(1000 * took / drawn, 3)}

    growth = {
        "problems": {n: grown(n, 4) for n in (3, 6, 12, 24)},
        "beams": {b: grown(12, b) for b in (2, 4, 8)},
    }
    result = {
        "problems": 12,
        "beams": 4,
        "continuations": 4,
        "seconds": round(fast, 3),
        "rereading_seconds": round(slow, 3),
        "ratio": round(slow / fast, 2),
        "problems_with_equal_sequences": sum(equal),
        "tokens_generated": sum(f.tokens_generated for f in found),
        "tokens_scored": sum(f.tokens_scored for f in found),
        "rereading_tokens_scored": sum(f.tokens_scored for f in same),
        "by": growth,
        "repeats": args.repeats,
        "model": f"Llama, hidden {args.hidden}, {args.layers} layers, vocabulary {VOCABULARY}",
        "threads": args.threads,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
    }
    print(json.dumps(result, indent=1))
    if args.output is not None:
        write_json(args.output, result)


if __name__ == "__main__":
    main()
