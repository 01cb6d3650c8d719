"""Help texts of the flags that several commands share, so that one flag means one thing everywhere."""

from __future__ import annotations

from typing import Any

MEANINGS = {
    "model": "The policy: a folder, a .gguf file or a name on the hub",
    "value_model": "The value model, of the policy's vocabulary: a folder or a name on the hub",
    "ref_model": "The reference, of the policy's vocabulary: a folder or a name on the hub",
    "reward_model": "A sequence classifier with one label, to score with in place of --value_model",
    "output_dir": "The folder to write",
    "task": "The task: its name, or one of your own, file.py:Class",
    "data": "The file or folder that the task's problems are read from",
    "split": "Which of the task's splits",
    "limit": "At most so many prompts",
    "num_generations": "Responses per prompt (K)",
    "max_new_tokens": "Length limit of a response, in tokens",
    "engine": "What draws the responses",
    "seed": "Seed of everything that is drawn at random",
    "batch_size": "Responses drawn at a time",
    "temperature": "Sampling temperature; 0 is greedy",
    "top_p": "Nucleus filter; 1 is off",
    "top_k": "Top-k filter; 0 is off",
    "trust_remote_code": "Run code that a model repository brings",
    "dry_run": "Say what would be done, and stop",
    "step_delimiters": "A reasoning step ends after any of these; \\n, \\t, \\r and \\\\ are understood",
    "prompt_style": "How the task puts a problem",
    "max_turns": "Turn limit of an episode",
    "workers": "Worker processes",
    "chat_template": "A file with the chat template to use (Jinja), or the word original for the tokenizer's own, "
    "where a template that appends is known (Qwen3, DeepSeek-R1) and would take its place",
    "merge_system_message": "Put the system text before the first user message, for templates that refuse a system",
}
"""Flag → what it means in every command that has it."""

OF_EPISODES = (
    "The word none: a response, or a turn, is one step. Default: those of the task that the episodes were collected "
    "for, and line breaks where they were imported."
)
"""Of `step_delimiters`, where there are episodes."""


def flag(name: str, more: str = "", *, default: str = "", **metadata: Any) -> dict[str, Any]:
    """The metadata of a config field whose flag is shared.

    Args:
        name: a flag of `MEANINGS`.
        more: sentences that only this command adds.
        default: what holds where the flag is not given, if the field's default does not say it.
        **metadata: more metadata of the field, such as its choices.
    """
    stated = f"; default: {default}" if default else ""
    return {"help": f"{MEANINGS[name]}{stated}. {more}".rstrip(), **metadata}
