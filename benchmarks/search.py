"""A step beam with caches, beside one that reads everything again.

The baseline is the published scheme by its description: each of the K continuations of all beams is an engine call of
its own on the whole text so far, and the critic reads every candidate from its first token. Both draw the same
sequences, which is checked. Random weights, whose steps are about ten tokens long; no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks.measure import alternated, machine, median, ratio
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
HIDDEN, LAYERS = 128, 4
PROBLEMS, BEAMS, CONTINUATIONS, MAX_NEW_TOKENS = 12, 4, 4, 96
SIZES = ((3, 4), (6, 2), (6, 4), (6, 8))
"""Problems and beams at which the time of ours alone is measured: it grows in proportion to both."""


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
            active = logits[torch.from_numpy(drawing.active)]
            chosen = drawing.first(active, sampler) if begins else sampler(active, drawing.noise())
            drawing.record(*chosen, active)
            begins = False
            if not len(drawing.active):
                return drawing
            ids = torch.from_numpy(drawing.last[:, None])
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

    def extend(self, more: Sequence[Sequence[int]]) -> list[int]:
        """See `Scoring.extend`."""
        self.rows = [[*row, *ids] for row, ids in zip(self.rows, more, strict=True)]
        return [0] * len(self.rows)

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


def rows(repeats: int) -> list[dict[str, Any]]:
    """Measures both beams on the same problems, and ours on more sizes; on a CPU."""
    policy, value = models(HIDDEN, LAYERS)
    sampling = SamplingParams(MAX_NEW_TOKENS, seed=0)
    end = EndConditions(Words(), (), RULE, ENDS)
    found: dict[str, list[SearchResult]] = {}

    def beam(name: str, problems: int, beams: int) -> Callable[[], None]:
        def search() -> None:
            steppers: dict[str, Callable[[], Stepper]] = {
                "cached": lambda: CachedStepper(policy, Words(), sampling, RULE, ENDS),
                "re-encoding": lambda: RereadingStepper(policy, end),
            }
            scorers: dict[str, Callable[[], Scorer]] = {
                "cached": lambda: ValueScorer(value),
                "re-encoding": lambda: RereadingScorer(value),
            }
            spec = SearchSpec("beam", beams, sampling, continuations=CONTINUATIONS)
            found[name] = beam_search(requests(problems), steppers[name](), scorers[name](), spec)

        return search

    beam("cached", 1, 2)()
    both = {name: beam(name, PROBLEMS, BEAMS) for name in ("cached", "re-encoding")}
    seconds = {name: median(times) for name, times in alternated(both, repeats).items()}
    rows = [_row("re-encoding", PROBLEMS, BEAMS, seconds, found) | {"repeats": repeats}]
    rows[0]["problems_with_equal_sequences"] = sum(
        [r.ids for r in a.pool] == [r.ids for r in b.pool]
        for a, b in zip(found["cached"], found["re-encoding"], strict=True)
    )
    for problems, beams in SIZES:
        took = alternated({"cached": beam("cached", problems, beams)}, 1)
        rows.append(_row(None, problems, beams, {"cached": took["cached"][0]}, found) | {"repeats": 1})
        print(f"search: {problems} problems, {beams} beams", flush=True)
    return rows


def _row(
    baseline: str | None,
    problems: int,
    beams: int,
    seconds: dict[str, float],
    found: dict[str, list[SearchResult]],
) -> dict[str, Any]:
    tokens = sum(result.tokens_generated for result in found["cached"])
    theirs = None if baseline is None else seconds[baseline]
    return {
        "part": "search",
        "baseline": baseline,
        "scheme": "cached",
        "workload": f"Llama of {LAYERS} layers, random weights",
        "vocab": VOCABULARY,
        "hidden": HIDDEN,
        "tokens": tokens,
        "problems": problems,
        "beams": beams,
        "time_ratio": ratio(theirs, seconds["cached"]),
        "memory_ratio": None,
        "seconds": seconds["cached"],
        "baseline_seconds": theirs,
        "tokens_scored": sum(result.tokens_scored for result in found["cached"]),
        "tokens_per_second": tokens / seconds["cached"],
        **machine("cpu"),
    }
