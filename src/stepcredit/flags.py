"""Help texts of flags shared by several commands, so that a flag has one meaning everywhere."""

from __future__ import annotations

from typing import Any

MEANINGS = {
    "model": "The policy: a folder, a .gguf file or a name on the hub",
    "value_model": "The value model, with the policy's vocabulary: a folder or a name on the hub",
    "value_base_url": "Addresses of servers of --value_model, vLLM's with --runner pooling; default: it runs here",
    "ref_model": "The reference policy, with the policy's vocabulary: a folder or a name on the hub",
    "reward_model": "A sequence classifier with one label, used for scoring instead of --value_model",
    "output_dir": "The folder to write",
    "reward_threshold": "A response is right if its outcome is at least this: its reward, without those of its steps",
    "task": "The task: its name, or one of your own, file.py:Class",
    "data": "The file or folder that the task's problems are read from",
    "split": "Split of the task",
    "limit": "Maximum number of prompts",
    "num_generations": "Responses per prompt (K)",
    "balanced": "Sample each prompt until it has so many right and so many wrong responses, --num_generations at most; "
    "keep the first so many of each",
    "max_new_tokens": "Length limit of a response, in tokens",
    "engine": "Generation engine: transformers runs the policy here; openai asks servers that run it",
    "base_url": "Addresses of the servers of the policy, such as http://localhost:8000; several share the requests",
    "server_model": "Name of the policy on the servers",
    "concurrency": "Requests at a time per server",
    "request_timeout": "Seconds until a request to a server is given up and repeated",
    "retries": "Repetitions of a failed request, with growing pauses, until its server is given up",
    "seed": "Seed of all random numbers",
    "batch_size": "Responses sampled or scored at a time",
    "dtype": "Precision of the policy's weights for sampling; bfloat16 is faster on GPUs and on recent CPUs",
    "temperature": "Sampling temperature; 0 is greedy",
    "top_p": "Nucleus filter; 1 is off",
    "top_k": "Top-k filter; 0 is off",
    "trust_remote_code": "Run code from the model repository",
    "dry_run": "Print what would be done, and exit",
    "step_delimiters": "Strings that end a reasoning step; \\n, \\t, \\r and \\\\ are escapes",
    "prompt_style": "Prompt format of the task",
    "max_turns": "Turn limit of an episode",
    "workers": "Worker processes",
    "chat_template": "Jinja file of the chat template, or original: the tokenizer's own template, even if it is known "
    "to rewrite earlier turns (Qwen3, DeepSeek-R1) and would be replaced",
    "settings": 'Settings per training method, as JSON or as a mapping in --config: {"oreo": {"beta": 0.03}}; "all" '
    "applies to every method",
    "merge_system_message": "Prepend the system message to the first user message, for templates without a system role",
}
"""Flag → its meaning in every command that has it."""

OF_EPISODES = (
    "none: a response, or a turn, is one step. Default: those of the task of collected episodes; line breaks for "
    "imported ones."
)
"""Addition to the help of `step_delimiters` for commands that read episodes."""


BY_VERDICT = "A verdict, where there is one, comes first."
"""Addition to the help of `reward_threshold` for commands that do not train."""


def flag(name: str, more: str = "", *, default: str = "", **metadata: Any) -> dict[str, Any]:
    """Returns the metadata of a config field whose flag is shared.

    Args:
        name: a flag in `MEANINGS`.
        more: further sentences, specific to the command.
        default: description of the default, if the field's default is not informative.
        **metadata: further metadata of the field, such as its choices.
    """
    stated = f"; default: {default}" if default else ""
    return {"help": f"{MEANINGS[name]}{stated}. {more}".rstrip(), **metadata}
