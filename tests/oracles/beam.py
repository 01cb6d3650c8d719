"""The step beam as slowly and plainly as it can be written: no cache, no batch, everything read again each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stepcredit.engines.noise import stream_key, uniform


def next_distribution(model: Any, ids: list[int]) -> np.ndarray:
    """π(·|ids) in float64."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1).numpy()


def value(model: Any, ids: list[int]) -> float:
    """V of the state after these ids."""
    with torch.inference_mode():
        return float(model(input_ids=torch.tensor([ids])).logits[0, -1, 0].double())


def slow_beam(
    policy: Any,
    value_model: Any,
    tokenizer: Any,
    prompt_id: str,
    prompt: list[int],
    *,
    width: int,
    continuations: int,
    seed: int,
    max_new_tokens: int,
    max_step_tokens: int,
    delimiter: str,
) -> dict[str, Any]:
    """The finished responses with their values, the best of them, and how many tokens were drawn."""
    beams: list[tuple[list[int], str, int | None]] = [([], "", None)]  # ids, the last step's text, the next token seen
    pool: list[tuple[list[int], float]] = []
    generated = rounds = 0
    while beams and len(pool) < width:
        candidates: dict[tuple[int, ...], tuple[str, str, int | None]] = {}
        for rank, (beam, step_text, seen) in enumerate(beams):
            for k in range(continuations * (width if rounds == 0 else 1)):
                key = stream_key(seed, prompt_id, (rounds * 10_000 + rank) * 10_000 + k)
                draw = DecodingState(policy, tokenizer, prompt, beam, key, delimiter)
                first = seen if k == 0 else draw.first_of_a_step(step_text, seen)
                step, ended, text, following = draw.step(first, max_new_tokens, max_step_tokens)
                generated += len(step) + (following is not None) - (k == 0 and seen is not None)
                candidates.setdefault(tuple(beam + step), (ended, text, following))
        scored = []
        for ids, (ended, text, following) in candidates.items():
            if ended != "cut":
                before_end = ids[:-1] if ended == "finished" else ids
                scored.append((value(value_model, prompt + list(before_end)), ids, ended, text, following))
        best = sorted(scored, key=lambda row: -row[0])[: width - len(pool)]
        beams = [(list(ids), text, following) for _, ids, ended, text, following in best if ended == "step"]
        pool += [(list(ids), v) for v, ids, ended, _, _ in best if ended == "finished"]
        rounds += 1
    return {"pool": pool, "chosen": max(pool, key=lambda r: r[1], default=(None, None))[0], "generated": generated}


class DecodingState:
    """One continuation of a beam, token by token."""

    def __init__(self, policy: Any, tokenizer: Any, prompt: list[int], beam: list[int], key: Any, delimiter: str):
        self.policy, self.tokenizer, self.prompt, self.beam = policy, tokenizer, prompt, beam
        self.key, self.delimiter = key, delimiter

    def token(self, step: list[int], attempt: int = 0) -> int:
        probabilities = next_distribution(self.policy, self.prompt + self.beam + step)
        noise = uniform(np.array([self.key]), len(self.beam) + len(step) + (attempt << 32))[0]
        cumulative = probabilities.cumsum()
        return int(np.searchsorted(cumulative, noise * cumulative[-1], side="right"))

    def begins(self, step_text: str, token: int) -> bool:
        """Whether a token begins a step after one with this text."""
        text = self.tokenizer.decode([token])
        space = text[: len(text) - len(text.lstrip())]
        return bool(text.strip()) and bool(step_text.strip()) and self.delimiter in (step_text + space).lstrip()

    def first_of_a_step(self, step_text: str, seen: int | None) -> int | None:
        """A token that begins a step; None where none was seen to."""
        if seen is None:
            return None
        for attempt in range(33):
            token = self.token([], attempt)
            if token != self.tokenizer.eos_token_id and self.begins(step_text, token):
                return token
        return seen

    def step(self, first: int | None, limit: int, step_limit: int) -> tuple[list[int], str, str, int | None]:
        """(a step's ids, "finished", "cut" or "step", its text, the token that was seen to begin the next one)."""
        step: list[int] = []
        while True:
            token = first if first is not None and not step else self.token(step)
            if token == self.tokenizer.eos_token_id:
                return [*step, token], "finished", "", None
            text = self.tokenizer.decode(step)
            if self.begins(text, token):
                return step, "step", text, token
            step.append(token)
            if len(self.beam) + len(step) >= limit:
                return step, "cut", "", None
            if len(step) >= step_limit:
                return step, "step", "", None
