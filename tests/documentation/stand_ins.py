"""What stands in for what a test does not have, and the commands that are only parsed: one list, with the reasons."""

import re

REPLACED = [
    (r"HuggingFaceTB/SmolLM2-135M-Instruct|Qwen/Qwen[\w.-]+", "model", "a model of a few thousand weights; no hub"),
    (r"hub:OWNER/NAME", "hub:dataset", "a dataset in a folder; no hub"),
    (r"--task gsm8k", "--task gsm8k --data problems --max_new_tokens 16", "a few problems in a folder; no hub"),
    (r'task="gsm8k"', 'task="gsm8k", data="problems", max_new_tokens=16', "likewise"),
    (r"--task math --split math500", "--task math --split math500 --data math --max_new_tokens 16", "likewise"),
    (
        r"(stepcredit compare .*)",
        r"\1 --train_prompts 4 --validation_prompts 3 --test_prompts 3",
        "as many as there are",
    ),
    (r"(stepcredit iterate .*gsm8k.*)", r"\1 --validation_prompts 3 --test_prompts 3", "likewise"),
    (r"(stepcredit generate (?!.*max_new_tokens).*)", r"\1 --max_new_tokens 16", "a model that never ends by itself"),
    (r"recipes/", "RECIPES/", "recipes are read from the checkout"),
    (r"--(limit|validation_prompts|test_prompts) \d+", r"--\1 3", "three prompts, not hundreds"),
    (r"--num_generations \d+", "--num_generations 2", "two responses, not sixteen"),
    (r"--gradient_accumulation_steps \d+", "--gradient_accumulation_steps 1", "a step of few responses"),
    (r"--lora_r 64", "--lora_r 2", "of a model with sixteen hidden units"),
    (r"--train_layers 8", "--train_layers 1", "of a model with two layers"),
]
"""(pattern, what replaces it in every block, why)."""

PARSED = [
    (r"--engine openai", "needs servers; tests/engines/server has stand-ins for them"),
    (r"^(accelerate|torchrun) ", "needs several processes; tests/training/test_two_processes.py runs two"),
    (r"alfworld", "needs the extra alfworld, and minutes for its games; tests/test_alfworld_start.py plays some"),
    (r"^stepcredit view", "serves until it is interrupted; tests/report has its pages"),
    (r"^stepcredit quickstart", "takes minutes; tests/experiments has a small one"),
]
"""(commands, why they are parsed and not run)."""

DRY = [
    (r"^stepcredit (compare|reproduce) ", "many runs, for minutes, or of pretrained models"),
    (r"^stepcredit push ", "uploads to the hub"),
    (r"^stepcredit iterate .*gsm8k", "three rounds; the tutorial runs two"),
]
"""(commands, why they run with --dry_run true)."""

NEEDS = {
    "docs/reasoning_gym.md": "reasoning_gym",
    "docs/tutorials/05-lora.md": "peft",
    "docs/tutorials/08-rounds.md": "reasoning_gym",
}
"""Page → the package without which its blocks are skipped."""

FOREIGN = {
    "git": "clones the repository",
    "vllm": "a server on a GPU",
}
"""Programs that are neither run nor checked, and what they would do."""

FOREIGN_FLAGS = {"enable-deterministic-inference": "of SGLang"}
"""Flags of other programs that sentences name."""


def replaced(text):
    """Returns a block, or a command, with its stand-ins."""
    for pattern, stand_in, _ in REPLACED:
        text = re.sub(pattern, stand_in, text)
    return text


def matches(listed, line):
    """Whether a command is one of a list of (pattern, why)."""
    return any(re.search(pattern, line) for pattern, _ in listed)
