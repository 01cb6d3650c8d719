"""Damaged, unfit and absent models, and checkpoints."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

from faults.case import Case, Damage
from faults.cases.commands import GOOD, TRAIN
from faults.cases.damage import JSON_DAMAGE, content, folder_in_place_of, shortened


def in_folder(folder: str) -> dict[str, Damage]:
    """What can be wrong with the folder of a model."""
    weights, config = f"{folder}/model.safetensors", f"{folder}/config.json"
    return {
        "no folder": lambda here: shutil.rmtree(here / folder),
        "empty weights": content(weights, b""),
        "truncated weights": shortened(weights, 0.6),
        "a pickle in the weights' place": content(weights, pickle.dumps({"a": [1.0]})),
        "a folder in the weights' place": folder_in_place_of(weights),
        "a page in the weights' place": content(weights, b"<html>404</html>"),
        "an empty config": content(config, b""),
        "a config of {}": content(config, b"{}"),
        "a config of []": content(config, b"[]"),
        "a truncated config": shortened(config, 0.5),
        "another model in its place": lambda here: (
            shutil.rmtree(here / folder), shutil.copytree(here / ("reward" if folder != "reward" else "policy"), here / folder)
        ),
        "a broken tokenizer": content(f"{folder}/tokenizer.json", b"{"),
    }  # fmt: skip


def commands() -> dict[str, tuple[str, list[str]]]:
    """Commands that load a model, and the folder that they load it from."""
    evaluate = GOOD["evaluate"]
    return {
        "collect": ("policy", GOOD["collect"]),
        "evaluate": ("policy", evaluate),
        "train": ("policy", GOOD["train"]),
        "generate": ("policy", GOOD["generate"]),
        "generate --value_model": ("value", [*GOOD["generate"], "--value_model", "value"]),
        "compare": ("policy", GOOD["compare"]),
        "evaluate --value_model": ("value", [*evaluate, "--value_model", "value", "--search", "best-of"]),
        "evaluate sample --value_model": ("value", [*evaluate, "--value_model", "value", "--search", "sample"]),
        "evaluate --reward_model": ("reward", [*evaluate, "--reward_model", "reward", "--search", "best-of"]),
        "train --value_model": ("value", [*GOOD["train"], "--value_model", "value"]),
    }


CHECKPOINT = "trained/checkpoint-2"
RESUME = ["train", "--method", "oreo", "--model", "policy", "--episodes", "episodes", "--output_dir", "trained"]
RESUME += [*TRAIN, "--max_steps", "3", "--resume_from_checkpoint", CHECKPOINT]
TENSORS = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def cases() -> Iterator[Case]:
    """Every damage for every command that loads a model."""
    for name, (folder, command) in commands().items():
        for how, damage in in_folder(folder).items():
            if how == "a broken tokenizer" and folder == "reward":
                continue
            yield Case("models", f"{name}, {how}", command, damage=damage, says=(folder,))
    for how, damage in in_folder("policy").items():
        if "config" in how or how in ("no folder", "a broken tokenizer"):
            yield Case("models", f"estimate, {how}", GOOD["estimate"], damage=damage, says=("policy",))
    for flag in ("--model", "--value_model", "--ref_model"):
        yield Case("models", f"estimate {flag} absent", [*GOOD["estimate"], flag, "./nowhere"], says=("nowhere",))
        command = [*GOOD["train"], flag, "no/such/model"]
        yield Case("models", f"train {flag} absent", command, says=("no/such/model",))
    for name in ("collect", "evaluate"):
        yield Case("models", f"{name} --model absent", [*GOOD[name], "--model", "./nowhere"], says=("nowhere",))
        yield Case("models", f"{name} --model empty", [*GOOD[name], "--model", ""], says=("model",))
    for file in TENSORS:
        for how, damage in {
            "empty": content(f"{CHECKPOINT}/{file}", b""),
            "truncated": shortened(f"{CHECKPOINT}/{file}", 0.5),
            "a page": content(f"{CHECKPOINT}/{file}", b"<html>"),
            "a foreign pickle": content(f"{CHECKPOINT}/{file}", pickle.dumps(Path("x"))),
        }.items():
            yield Case("checkpoints", f"{file}, {how}", RESUME, damage=damage, says=("checkpoint-2", file))
    for how, damage in JSON_DAMAGE.items():
        file = f"{CHECKPOINT}/trainer_state.json"
        yield Case("checkpoints", f"trainer_state.json, {how}", RESUME, damage=damage(file), says=("checkpoint-2",))
    templates = {
        "absent": None, "empty": "", "no Jinja": "{% if %}", "an unclosed block": "{% for m in messages %}",
        "an unknown filter": "{{ messages | nothing }}", "an error of its own": "{{ raise_exception('no') }}",
        "no UTF-8": b"\xff\xfe",
    }  # fmt: skip
    chat = b'{"messages": [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}], "reward": 1}\n'
    for how, text in templates.items():

        def damage(here: Path, text: str | bytes | None = text) -> None:
            (here / "prompts.jsonl").write_bytes(chat.replace(b"messages", b"prompt"))
            if text is not None:
                (here / "t.jinja").write_bytes(text.encode() if isinstance(text, str) else text)

        generate = [
            "generate",
            "prompts.jsonl",
            "--model",
            "policy",
            "--chat_template",
            "t.jinja",
            "--max_new_tokens",
            "4",
        ]
        collect = [*GOOD["collect"], "--task", "gsm8k", "--data", "problems.jsonl", "--chat_template", "t.jinja"]
        yield Case("chat templates", f"generate, {how}", generate, damage=damage)
        yield Case("chat templates", f"collect, {how}", collect, damage=damage)
