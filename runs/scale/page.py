"""Remakes the table of docs/scale.md: `python runs/scale/page.py` writes it, `--check ROW` compares one row.

Every row is one run of `stepcredit estimate`, on one H100 and made-up episodes of the length below; what is sharded is
divided by the number of GPUs. The page's own words stay.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from transformers import LlamaConfig, Qwen2Config

from stepcredit.estimates.estimate import Estimate, EstimateConfig, estimate
from stepcredit.estimates.memory import OPTIMIZER
from stepcredit.estimates.simulation import GRADIENTS
from stepcredit.training.configs import OREOConfig

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
MARKER = re.compile(r"(<!-- scale -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PROMPT, RESPONSE = 150, 350
"""Tokens of an episode."""
PRICE = 2.5
"""US dollars of an H100 for an hour: assumed."""
MODELS = {
    "7B": Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=4096, tie_word_embeddings=False,
        architectures=["Qwen2ForCausalLM"],
    ),
    "70B": LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, max_position_embeddings=4096, tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    ),
}  # fmt: skip
"""The shapes of Qwen2.5-7B and Llama-3.1-70B."""


class Scenario(NamedTuple):
    """A run of OREO for one epoch on so many GPUs, with the flags of `train` in which it differs."""

    model: str
    what: str
    episodes: int
    gpus: int
    batch: int
    flags: dict[str, object]
    is_sharded: bool = True


LORA = {"use_peft": True, "value_use_peft": True}
BF16 = {"model_init_kwargs": {"dtype": "bfloat16"}}
ONCE = {"precompute_ref_log_probs": True, "kl_estimator": "sampled"}
SCENARIOS = {
    "7b-full": Scenario("7B", "all weights, reference once", 150_000, 8, 2, ONCE),
    "7b-lora": Scenario("7B", "two LoRA adapters", 150_000, 1, 2, {**LORA, **BF16}, False),
    "70b-lora": Scenario("70B", "two LoRA adapters", 10_000_000, 32, 1, {**LORA, **BF16}),
}


def estimated(scenario: Scenario) -> Estimate:
    """The estimate of one GPU with whole models."""
    with tempfile.TemporaryDirectory() as folder:
        MODELS[scenario.model].save_pretrained(folder)
        flags = dict(scenario.flags)
        lora = {name: flags.pop(name) for name in LORA if name in flags}
        config = EstimateConfig(
            method="oreo", model=folder, prompt_tokens=PROMPT, response_tokens=RESPONSE, num_prompts=scenario.batch,
            num_generations=1, device="H100", **lora,
        )  # fmt: skip
        args = OREOConfig(
            output_dir=folder, bf16=True, use_cpu=True, report_to="none", recompute_activations=True,
            per_device_train_batch_size=scenario.batch, **flags,
        )  # fmt: skip
        return estimate(config, args)


def row(scenario: Scenario) -> list[str]:
    """The numbers of a scenario."""
    found = estimated(scenario)
    gpus = scenario.gpus if scenario.is_sharded else 1
    parts = found.memory.phases["forward and backward pass"]
    gradients = 4.0 * found.trained
    rest = {name: size for name, size in parts.items() if not name.startswith(GRADIENTS)}
    sharded = [rest.pop(name) for name in (OPTIMIZER, "weights: policy", "weights: value") if name in rest]
    memory = (sum(sharded) + gradients) / gpus + sum(rest.values())
    seconds = (found.compute.step - found.compute.seconds["optimizer"] * (1 - 1 / gpus)) / scenario.batch
    hours = scenario.episodes * seconds / 3600
    once = found.compute.precomputing / scenario.batch * scenario.episodes / 3600
    disk = found.disk.kept / scenario.batch * scenario.episodes
    return [
        scenario.model,
        scenario.what,
        f"{scenario.episodes:,}",
        f"{scenario.gpus} H100",
        f"{found.trained / 1e9:.2g} B",
        f"{memory / 1e9:.0f}",
        f"{hours:,.1f}",
        f"{once:,.1f}",
        f"{(hours + once) / scenario.gpus / 24:.2g}",
        f"{(hours + once) * PRICE:,.0f}",
        f"{disk / 1e9:,.1f}",
    ]


HEADER = ["model", "trained", "episodes", "on", "weights trained", "GB a GPU", "GPU hours an epoch", "GPU hours once",
          "days", "US$", "GB kept"]  # fmt: skip


def line(cells: list[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> int:
    """Writes the table, or checks one of its rows."""
    text = PAGE.read_text(encoding="utf-8")
    if arguments[:1] == ["--check"]:
        found = line(row(SCENARIOS[arguments[1]]))
        print(found)
        return 0 if found in text.splitlines() else 1
    lines = [
        line(HEADER),
        line(["---"] * 2 + ["---:"] * (len(HEADER) - 2)),
        *(line(row(s)) for s in SCENARIOS.values()),
    ]
    PAGE.write_text(MARKER.sub(lambda m: f"{m[1]}\n{chr(10).join(lines)}\n\n{m[3]}", text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
