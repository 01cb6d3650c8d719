"""Does a policy trained on chat logs learn to stop if the tokenizer's end token differs from the template's?

Uses SmolLM2-135M-Instruct (`make assets`) with its end of sequence changed to `<|endoftext|>` in tokenizer and
generation config, as Qwen2.5 base models and Llama 3 are saved. The template still ends a turn with `<|im_end|>`. Runs
sixty steps of SFT on short chat logs and then draws ten responses of at most 64 tokens at temperature 1.

    python runs/turn_ends/run.py OUT        # ten minutes on one core; resumes where it stopped

Writes OUT/results.json: how many responses stopped and with which token, and whether each imported episode has the end
of turn as an action.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from stepcredit.cli import main
from stepcredit.engines.engine import Request, SamplingParams, load_engine
from stepcredit.episodes.encoding import prompt_ids, response_text, tokenise
from stepcredit.episodes.store import load_episodes
from stepcredit.files import write_json
from stepcredit.models.loading import load_tokenizer
from stepcredit.results.provenance import versions

STEPS, BATCH, RESPONSES, LIMIT = 60, 4, 10, 64
END_OF_TURN, OTHER_END = "<|im_end|>", "<|endoftext|>"


def renamed(smollm2: Path, folder: Path) -> None:
    """Save the model with a different end of sequence in tokenizer and generation config."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.eos_token = OTHER_END
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def logs(file: Path, count: int) -> None:
    """Write short chats: a question for a sum, and a one-sentence answer."""
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        a, b = draw.randint(1, 40), draw.randint(1, 40)
        said = [("user", f"What is {a} + {b}?"), ("assistant", f"{a} + {b} is {a + b}.")]
        rows.append({"messages": [{"role": r, "content": c} for r, c in said], "reward": 1})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def stops(policy: str, tokenizer: Any) -> list[dict[str, Any]]:
    """Ten responses: the stop reason, the last token and the text of each."""
    engine = load_engine(policy, tokenizer=tokenizer)
    asked = [[{"role": "user", "content": f"What is {n} + {2 * n}?"}] for n in range(RESPONSES)]
    requests = [Request(tuple(prompt_ids(m, tokenizer)), f"p{k}") for k, m in enumerate(asked)]
    drawn = engine.generate(requests, SamplingParams(LIMIT, temperature=1.0, seed=0))
    return [
        {
            "stop_reason": str(g.stop_reason),
            "last": tokenizer.decode([int(g.ids[-1])]),
            "text": response_text(g.ids.tolist(), tokenizer, engine.ends),
        }
        for g in drawn
    ]


def run(smollm2: Path, out: Path) -> dict[str, Any]:
    """Run every step that is not done yet and return the results."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "start" / "model.safetensors").exists():
        renamed(smollm2, out / "start")
    if not (out / "episodes").exists():
        logs(out / "logs.jsonl", STEPS * BATCH)
        assert main(["import", str(out / "logs.jsonl"), "--output_dir", str(out / "episodes")]) == 0
    tokenizer = load_tokenizer(str(out / "start"))
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    taught = [tokenise(episode, tokenizer) for episode in load_episodes(out / "episodes")]
    if not (out / "sft" / "run.json").exists():
        flags = {
            "method": "sft", "model": out / "start", "episodes": out / "episodes", "output_dir": out / "sft",
            "max_steps": STEPS, "per_device_train_batch_size": BATCH, "learning_rate": 5e-5, "logging_steps": 10,
            "report_to": "none", "save_strategy": "no",
        }  # fmt: skip
        assert main(["train", *(str(x) for name, value in flags.items() for x in (f"--{name}", value))]) == 0
    responses = stops(str(out / "sft" / "policy"), load_tokenizer(str(out / "sft" / "policy")))
    results = {
        "episodes": len(taught),
        "episodes_that_end_with_the_end_of_turn": sum(int(t.ids[t.action_mask][-1]) == end for t in taught),
        "steps": STEPS,
        "responses": len(responses),
        "stopped_with_the_end_of_turn": sum(r["stop_reason"] == "stop" and r["last"] == END_OF_TURN for r in responses),
        "read": responses,
        **versions(),
    }
    write_json(out / "results.json", results)
    return results


if __name__ == "__main__":
    from os import environ

    cache = Path(environ.get("STEPCREDIT_ASSETS", Path.home() / ".cache" / "stepcredit"))
    found = run(cache / "smollm2", Path(sys.argv[1]))
    print(json.dumps({k: v for k, v in found.items() if k != "read"}, indent=1))
