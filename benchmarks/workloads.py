"""The model and the episodes of an optimizer step: SmolLM2-135M on GSM8K, and random ones of a given shape.

Weights and episodes are real where they are at hand (`make assets`; GSM8K beside the checkout) and random of the same
shape elsewhere, which costs the same time; `Workload.label` says which.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from benchmarks.measure import CHECKOUT
from stepcredit.episodes.alignment import Trajectory, align
from stepcredit.episodes.episode import Episode, Tokens
from stepcredit.episodes.steps import StepRule
from stepcredit.models.loading import load_tokenizer
from stepcredit.tasks.word_tokenizer import word_tokenizer

DATA = CHECKOUT.parent / "shared" / "data"
RESPONSES = ("gsm8k_test_solutions_6b_175b", "gsm8k_test_rollouts_llama2chat_k16")
RIGHT, WRONG = 4, 4
"""Responses of each outcome to each prompt: eight in all."""
MAX_RESPONSE = 132
"""Tokens of the longest response, its end included: a step of the published scheme takes half a minute on two cores."""
SMOLLM2 = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1_536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8_192,
    rope_parameters={"rope_theta": 100_000.0, "rope_type": "default"},
    tie_word_embeddings=True,
)
QWEN2_5_1_5B = Qwen2Config(
    vocab_size=151_936,
    hidden_size=1_536,
    intermediate_size=8_960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    max_position_embeddings=4_096,
    rope_parameters={"rope_theta": 1_000_000.0, "rope_type": "default"},
    tie_word_embeddings=True,
)


@dataclass(frozen=True)
class Workload:
    """A policy and the episodes of one optimizer step.

    Attributes:
        label: what the weights and the episodes are.
        config: the model's config.
        folder: the folder of the weights; None: random weights.
        tokenizer: the policy's tokenizer.
        episodes: eight responses to each prompt.
    """

    label: str
    config: PretrainedConfig
    folder: Path | None
    tokenizer: Any
    episodes: list[Episode]

    def policy(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
        """Returns the policy on the device."""
        if self.folder is not None:
            return AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype).to(device)
        torch.manual_seed(0)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(self.config, dtype=dtype)

    def trajectories(self) -> list[Trajectory]:
        """Returns the encoded episodes, in the order of `episodes`."""
        return [align(episode, self.tokenizer, StepRule(("\n",))) for episode in self.episodes]


def smollm2(prompts: int) -> Workload:
    """SmolLM2-135M on eight responses to each of so many GSM8K problems."""
    folder = Path(os.environ.get("STEPCREDIT_ASSETS") or "~/.cache/stepcredit").expanduser() / "smollm2"
    if not (folder / "config.json").exists():
        tokens = random_episodes(prompts, (30, 60), (50, MAX_RESPONSE), SMOLLM2.vocab_size)
        return Workload("SmolLM2-135M's shape, random weights and tokens", SMOLLM2, None, any_tokenizer(), tokens)
    tokenizer = load_tokenizer(str(folder))
    if all((DATA / f"{name}.jsonl.gz").exists() for name in RESPONSES):
        label, episodes = "SmolLM2-135M on GSM8K", gsm8k_episodes(tokenizer, prompts)
    else:
        label = "SmolLM2-135M on random tokens"
        episodes = random_episodes(prompts, (30, 60), (50, MAX_RESPONSE), SMOLLM2.vocab_size)
    return Workload(label, SMOLLM2, folder, tokenizer, episodes)


def qwen(prompts: int) -> Workload:
    """The shape of Qwen2.5-1.5B with random weights, on random tokens."""
    episodes = random_episodes(prompts, (64, 128), (64, 256), QWEN2_5_1_5B.vocab_size)
    return Workload("Qwen2.5-1.5B's shape, random weights and tokens", QWEN2_5_1_5B, None, any_tokenizer(), episodes)


WORKLOADS = {"smollm2": smollm2, "qwen": qwen}


def gsm8k_episodes(tokenizer: Any, prompts: int) -> list[Episode]:
    """Returns four right and four wrong responses to each of the first problems that have as many of at most
    `MAX_RESPONSE` tokens, in the order of the files."""
    found: dict[int, dict[bool, list[dict[str, Any]]]] = defaultdict(lambda: {True: [], False: []})
    for row in (row for name in RESPONSES for row in _rows(name)):
        if len(tokenizer(row["response"])["input_ids"]) < MAX_RESPONSE:
            found[row["qid"]][row["reward"] == 1].append(row)
    full = [qid for qid in sorted(found) if len(found[qid][True]) >= RIGHT and len(found[qid][False]) >= WRONG]
    rows = [row for qid in full[:prompts] for row in found[qid][True][:RIGHT] + found[qid][False][:WRONG]]
    return [
        Episode(
            prompt=f"{row['prompt']}\n",
            completion=row["response"],
            reward=float(row["reward"]),
            prompt_id=str(row["qid"]),
            sample=k % (RIGHT + WRONG),
        )
        for k, row in enumerate(rows)
    ]


def _rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def random_episodes(
    prompts: int, prompt_tokens: tuple[int, int], response_tokens: tuple[int, int], vocab: int
) -> list[Episode]:
    """Returns episodes of random tokens, their lengths uniform between the limits, the same in every process."""
    rng, episodes = np.random.default_rng(0), []
    for number in range(prompts):
        prompt = rng.integers(3, vocab, rng.integers(*prompt_tokens, endpoint=True))
        for sample in range(RIGHT + WRONG):
            response = rng.integers(3, vocab, rng.integers(*response_tokens, endpoint=True))
            tokens = Tokens(
                np.concatenate([prompt, response]).astype(np.int32),
                np.arange(len(prompt) + len(response)) >= len(prompt),
            )
            episodes.append(
                Episode(
                    prompt="go",
                    completion="go",
                    reward=float(sample < RIGHT),
                    prompt_id=str(number),
                    sample=sample,
                    tokens=tokens,
                )
            )
    return episodes


def any_tokenizer() -> Any:
    """Returns a tokenizer for random tokens, which only names the end and the padding."""
    return word_tokenizer(["go"])


def tokens_of(trajectories: Sequence[Trajectory]) -> dict[str, int]:
    """Returns the tokens of a step: all, those of responses, and all with each prompt counted once."""
    responses = sum(int(t.action_mask.sum()) for t in trajectories)
    prompts = {t.prompt_id: int(t.action_mask.argmax()) for t in trajectories}
    return {
        "tokens": sum(map(len, trajectories)),
        "response_tokens": responses,
        "tokens_shared": responses + sum(prompts.values()),
    }
