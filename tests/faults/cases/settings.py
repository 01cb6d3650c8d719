"""Settings out of range, and settings that do not go together."""

from __future__ import annotations

from collections.abc import Iterator

from faults.case import Case
from faults.cases.commands import GOOD

OUT_OF_RANGE = {
    "collect": {
        "--num_generations": ("0", "-1"), "--limit": ("0", "-2"), "--seed": ("-1",), "--temperature": ("-1", "nan", "inf"),
        "--top_p": ("0", "1.5", "nan"), "--top_k": ("-1",), "--max_new_tokens": ("0", "-5"), "--batch_size": ("0", "-3"),
        "--split": ("tset",), "--engine": ("vlm",), "--dtype": ("bf16", "int8"), "--prompt_style": ("qwen",), "--max_turns": ("0",), "--workers": ("0",),
    },
    "evaluate": {
        "--num_generations": ("0", "-1"), "--limit": ("0", "-2"), "--seed": ("-1",), "--temperature": ("-1", "nan"),
        "--top_p": ("0", "2"), "--top_k": ("-7",), "--max_new_tokens": ("0",), "--batch_size": ("0", "-3"),
        "--search": ("bestof", "beams"), "--width": ("0", "-1"), "--continuations": ("0",), "--budget": ("0", "-1"),
        "--max_step_tokens": ("0",), "--choose": ("best",), "--dtype": ("float",), "--split": ("tset",), "--task": ("aritmetic", "file.py:Task"),
    },
    "train": {
        "--learning_rate": ("nan", "-1", "inf"), "--warmup_steps": ("-1", "nan"), "--report_to": ("bogus", "wandbb"),
        "--deepspeed": ("none.json", "policy", "logs.jsonl"), "--model_init_kwargs": ("[1]", "{", "3", '{"dtype": "x"}'),
        "--num_train_epochs": ("-1", "nan", "0"), "--max_steps": ("0", "-2"), "--per_device_train_batch_size": ("0", "-3"),
        "--gradient_accumulation_steps": ("0", "-1"), "--seed": ("-1",), "--max_length": ("0", "-1", "1"),
        "--beta": ("0", "-1", "nan"), "--kl_coef": ("nan", "-1"), "--value_learning_rate": ("nan", "-1"),
        "--value_warmup_steps": ("-1",), "--value_updates_per_step": ("0", "-1"),
        "--value_loss": ("huber",), "--value_bins": ("1", "-1"), "--value_range": ("1", "0 nan"), "--level": ("word",), "--truncated": ("keep",), "--max_per_outcome": ("0",),
        "--lr_scheduler_type": ("zigzag",), "--optim": ("adamm",), "--adam_beta2": ("1.5", "nan"),
        "--weight_decay": ("nan", "-1"), "--max_grad_norm": ("nan", "-1"), "--logging_steps": ("-1",),
        "--save_steps": ("-1",), "--max_step_tokens": ("0",), "--step_delimiters": ("",), "--reward_range": ("1 0", "0"),
        "--resume_from_checkpoint": ("nowhere",), "--value_coef": ("nan",), "--normalizer": ("0", "nan"),
        "--train_layers": ("0", "-1", "99"), "--head": ("fast",), "--activation_dtype": ("int8",),
    },
    "estimate": {
        "--num_prompts": ("0", "-1"), "--num_generations": ("0",), "--prompt_tokens": ("0",), "--response_tokens": ("-3",),
        "--device": ("", "H1000", "gpu", "../H100", "a" * 300), "--train_layers": ("0", "2", "9"), "--head": ("fast",),
        "--per_device_train_batch_size": ("0",), "--optim": ("galore_adamw",), "--max_length": ("1",),
        "--lora_r": ("0",),
    },
    "quickstart": {
        "--seed": ("-1",), "--threads": ("0", "-2"), "--demonstrations": ("0", "-1"), "--sft_steps": ("0", "-1"),
        "--train_prompts": ("0",), "--num_generations": ("0",), "--epochs": ("0", "-1", "nan"), "--test_prompts": ("0",),
        "--value_prompts": ("0",), "--value_warmup_steps": ("-1",),
    },
    "compare": {
        "--seeds": ("-1",), "--learning_rates": ("nan", "-1", "0"), "--steps": ("0", "-1"), "--test_prompts": ("0",),
        "--validation_prompts": ("0", "-1"), "--jobs": ("0",), "--threads": ("0",), "--credit_prompts": ("-1",),
        "--continuations": ("0", "1"), "--methods": ("grpo", "../x", "a" * 300, "o\x00reo"), "--searches": ("beam",),
        "--settings": ('{"oreo": {"betta": 1}}', "[1]", "{", '{"ppo": {}}', '{"rft": 3}', '{"all": {"learning_rate": "x"}}'),
        "--tuning_seed": ("0", "-1"),
    },
    "iterate": {
        "--rounds": ("0", "-1"), "--patience": ("0",), "--validation_prompts": ("-1",), "--test_prompts": ("-1",),
        "--reference": ("start",), "--value_init": ("zero",), "--train_on": ("all",), "--keep_models": ("none",),
        "--searches": ("beam",), "--method": ("grpo", "../oreo", "o\x00reo", ""), "--split": ("tset", "validation"),
        "--validation_split": ("dev",), "--temperature": ("-1", "nan"), "--seed": ("-1",), "--num_generations": ("0",),
        "--settings": ('{"oreo": {"betta": 1}}', "[1]", "{", '{"ppo": {}}', '{"oreo": 3}', '{"all": {"seed": 1}}',
                       '{"oreo": {"learning_rate": "x"}}', '{"oreo": {"lora_r": 0}}', '{"oreo": {"value_model": "x"}}'),
    },
    "inspect": {"--preview": ("-1", "-5"), "--step_delimiters": ("", "\\q"), "--tokenizer": ("nowhere",)},
    "grade": {
        "--workers": ("0", "-1"), "--seconds": ("0", "-1", "nan", "inf"), "--answers": ("words",), "--marker": ("##",),
        "--columns": ("response", "foo=bar", "answer=nowhere"),
    },
    "import": {"--reward_range": ("1 0", "nan 1", "0"), "--columns": ("prompt", "promt=x", "prompt=nowhere")},
    "reproduce": {
        "--set": ("train=[1", "train", "=3", "trian.x=1", "train.betta=1", "model=[1]", "methods={}", "collect.seed=1"),
        "--methods": ("grpo",), "--seeds": ("-1",),
    },
    "generate": {
        "--num_generations": ("0", "2"), "--seed": ("-1",), "--temperature": ("-1", "nan"), "--top_p": ("0",),
        "--top_k": ("-1",), "--max_new_tokens": ("0",), "--batch_size": ("0",), "--search": ("vote", "beams"),
        "--width": ("0",), "--engine": ("vlm",), "--dtype": ("int8",), "--step_delimiters": ("",),
    },
    "alfworld build": {"--train": ("-1",), "--seed": ("-1",), "--workers": ("0", "-1")},
    "alfworld demonstrate": {
        "--num_generations": ("0",), "--max_turns": ("0",), "--careless": ("2", "nan"), "--distracted": ("-1",),
        "--split": ("tset",), "--workers": ("0",), "--limit": ("-1",), "--prompt_style": ("loud",),
    },
}  # fmt: skip

DATASETS: dict[str, tuple[str, ...]] = {
    "": ("chain_sum",), "chain-sum": ("chain_sum",), "chain_sun": ("chain_sum",), "composite": ("composite",),
    "chain_sum:": ("settings",), "chain_sum:min_terms": ("setting=value",), "chain_sum:min_terms=2;max_terms=3": ("min_terms",),
    "chain_sum:min_trems=2": ("min_trems", "min_terms"), "chain_sum:seed=1": ("seed",), "chain_sum:min_terms=9": ("max_terms",),
    "chain_sum:min_terms=-1": ("min_terms",), "chain_sum:min_terms=two": ("settings",), "chain_sum:min_terms=[1": ("YAML",),
    "chain_sum:min_terms=" + "[" * 20_000: ("YAML",), "chain_sum:min_terms=!!python/object/apply:os.getcwd []": ("YAML",),
    "chain_sum:min_terms=.nan": ("settings",), "chain_sum:=2": ("setting=value",), "chain_sum:max_digits=0": ("max_digits",),
    "gsm_symbolic:difficulty=0.5": ("difficulty",), "basic_arithmetic:operators=[1]": ("settings",),
}  # fmt: skip
"""What follows `reasoning-gym:`, and what the line must name."""


def cases() -> Iterator[Case]:
    """Every setting of the table, and what does not go together."""
    for name, table in OUT_OF_RANGE.items():
        for flag, values in table.items():
            for value in values:
                words = value.split(" ") if flag == "--reward_range" else [value]
                command = [*GOOD[name], flag, *words]
                yield Case(
                    "settings out of range",
                    f"{name} {flag} {value[:20]!r}",
                    command,
                    says=() if flag == "--set" else (flag.strip("-"),),
                )
    for method in ("grpo", "OREO", "../oreo", "a" * 300, "o\x00reo", "", "oreo "):
        command = ["train", "--method", method, *GOOD["train"][3:]]
        yield Case("unknown methods", f"train {method[:20]!r}", command, says=("method", "oreo"))
    lora = [*GOOD["train"], "--use_peft", "true"]
    for flag, values in {"--lora_r": ("0", "-1"), "--lora_alpha": ("0", "-4"),
                         "--lora_target_modules": ("nowhere", "q_prj", "")}.items():  # fmt: skip
        for value in values:
            yield Case("LoRA settings", f"{flag} {value!r}", [*lora, flag, value], says=(flag.strip("-"),))
    evaluate = GOOD["evaluate"]
    for search in ("best-of", "weighted-vote", "beam"):
        yield Case(
            "what does not go together", f"{search} without V", [*evaluate, "--search", search], says=("value_model",)
        )
    together = {
        "random for responses": ([*evaluate, "--search", "random"], ("random",)),
        "a trace of greedy": ([*evaluate, "--trace", "t.html"], ("trace",)),
        "data for a generated task": ([*GOOD["collect"], "--data", "logs.jsonl"], ("data",)),
        "compare episodes without a policy": (
            ["compare", "--task", "arithmetic", "--episodes", "episodes", "--output_dir", "out"], ("model",)
        ),
        "an estimate without lengths": (
            ["estimate", "--method", "oreo", "--model", "policy", "--device", "H100"], ("episodes", "prompt_tokens")
        ),
        "an estimate of what is left out": (
            ["estimate", "--method", "oreo", "--model", "policy", "--prompt_tokens", "9", "--response_tokens", "9999"],
            ("response_tokens", "max_length"),
        ),
        "bf16 on a GPU without it": ([*GOOD["estimate"], "--device", "T4", "--bf16", "true"], ("device", "bf16")),
        "bootstrap with split turns": (
            [*GOOD["train"], "--truncated", "bootstrap", "--split_turns", "true"], ("truncated",)
        ),
        "bootstrap without V": (
            ["train", "--method", "sft", *GOOD["train"][3:], "--truncated", "bootstrap"], ("truncated",)
        ),
        "process rewards of a task without": (
            [*GOOD["compare"], "--task", "gsm8k", "--data", "problems.jsonl", "--methods", "oreo-process"], ()
        ),
        "a tuning seed that is compared": ([*GOOD["compare"], "--tuning_seed", "0"], ("tuning_seed",)),
        "patience without validation": (
            [*GOOD["iterate"], "--patience", "1", "--validation_prompts", "0"], ("patience", "validation_prompts")
        ),
        "a carried value model on a trunk": (
            [*GOOD["iterate"], "--value_init", "carried", "--settings", '{"oreo": {"shared_trunk": true}}'],
            ("value_init", "fresh"),
        ),
        "solutions of a task without": (
            ["collect", "--task", "arithmetic", "--model", "solutions", "--output_dir", "out"], ("solution",)
        ),
    }  # fmt: skip
    for name, (command, says) in together.items():
        yield Case("what does not go together", name, command, says=says)
    for given, says in DATASETS.items():
        yield Case(
            "datasets of reasoning-gym", given[:60], [*GOOD["collect"], "--task", f"reasoning-gym:{given}"], says=says
        )
    for flag, value in (
        ("--data", "problems.jsonl"),
        ("--prompt_style", "lm-eval"),
        ("--split", "tset"),
        ("--limit", "9999"),
    ):
        command = [*GOOD["collect"], "--task", "reasoning-gym:chain_sum:max_terms=2,max_digits=1", flag, value]
        yield Case("datasets of reasoning-gym", f"{flag} {value}", command, says=(flag.strip("-"),))
