"""Training runs that one process and two must do alike.

`process_cases.py FOLDER` runs them all in a process of a distributed run; the main one writes `FOLDER/found.pt`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from torch.distributed.tensor import DTensor
from transformers import PrinterCallback

from doubles.models import tiny_llama
from doubles.sharding import SETTINGS, shard_on_cpus
from doubles.tokenizers import byte_tokenizer
from stepcredit import Episode, OfflineTrainer
from stepcredit.episodes.episode import Tokens
from stepcredit.training.methods import METHODS

STEPS = 5
"""Optimizer steps of 4 items; the last step of an epoch is uneven."""

SAVED = "oreo, saved"
CASES = {
    **{name: {"method": name} for name in METHODS},
    SAVED: {"method": "oreo", "save_strategy": "steps", "save_steps": 2},
    "oreo, naive head, three items a process": {"method": "oreo", "head": "naive", "level": "step",
                                                "per_device_train_batch_size": 3, "episodes": 13},
    "kto, one item in the last step": {"method": "kto", "episodes": 9},
    "oreo, value updates, one item in the last step": {
        "method": "oreo", "value_updates_per_step": 3, "episodes": 9
    },
    "oreo, shared prompts": {"method": "oreo", "share_prompts": True},
    "dro, shared trunk": {"method": "dro", "shared_trunk": True},
    "oreo, last layer, shared prompts": {"method": "oreo", "train_layers": 1, "share_prompts": True},
    "dpo, reference computed before": {"method": "dpo", "precompute_ref_log_probs": True},
    "dqo, last layer, bins": {"method": "dqo", "value_loss": "categorical", "value_range": [0.0, 1.0],
                              "train_layers": 1, "length_sorted": False},
    "oreo, LoRA": {"method": "oreo", "lora": True},
    "kto, evaluated": {"method": "kto", "eval_strategy": "steps", "eval_steps": 2, "evaluated": 7},
    "sft, dropping the last": {"method": "sft", "dataloader_drop_last": True},
}  # fmt: skip
"""Settings by name; `episodes` and `evaluated` are numbers of episodes."""
SHARDED = [
    "sft", "kto, evaluated", SAVED, "oreo, naive head, three items a process", "dro, shared trunk",
    "dqo, last layer, bins", "dpo, reference computed before", "oreo, LoRA",
]  # fmt: skip
"""The cases that two processes also do with FSDP2."""


def episodes(count):
    """Right and wrong responses to four prompts, of many lengths, with ids and behaviour log-probabilities."""
    texts = ["4", "no idea", "4\nbecause 2+2=4", "5\n", "is it 3?\nno: 4", "?"]
    found = []
    for k in range(count):
        prompt, text = f"{k % 4}+2=", texts[k % 6] * (1 + k // 6)
        ids = np.array([*prompt.encode(), *text.encode(), 257], dtype=np.int32)
        mask = np.arange(len(ids)) >= len(prompt)
        recorded = np.where(mask, -1.0 - 0.1 * (np.arange(len(ids)) % 7), 0).astype(np.float32)
        found.append(
            Episode(prompt=prompt, completion=text, reward=float(k % 3 == 0 or k % 5 == 0), prompt_id=str(k % 4),
                    tokens=Tokens(ids, mask, recorded))
        )  # fmt: skip
    return found


def trainer(case, folder, processes, sharding=None):
    """The trainer of a case: a step has the same items whatever the number of processes."""
    given = {"head": "fused", "per_device_train_batch_size": 2, **CASES[case], **(sharding or {})}
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"]) if given.pop("lora", False) else None
    dtype = given.pop("dtype", torch.float64)
    method, count, evaluated = given.pop("method"), given.pop("episodes", 11), given.pop("evaluated", 0)
    per_process = given.pop("per_device_train_batch_size")
    whole = given.get("dataloader_drop_last")  # what is dropped depends on how many items are read at a time
    args = METHODS[method].config(
        output_dir=str(folder), learning_rate=1e-2, max_steps=STEPS, logging_steps=1, report_to="none",
        disable_tqdm=True, use_cpu=True, per_device_eval_batch_size=2,
        per_device_train_batch_size=per_process * (2 // processes if whole else 1),
        gradient_accumulation_steps=1 if whole else 2 // processes, **{"save_strategy": "no", **given},
    )  # fmt: skip
    run = OfflineTrainer(
        model=tiny_llama().to(dtype), args=args, train_dataset=episodes(count), processing_class=byte_tokenizer(),
        eval_dataset=episodes(evaluated) if evaluated else None, peft_config=lora,
    )  # fmt: skip
    run.remove_callback(PrinterCallback)
    return run


def outcome(case, folder, processes, checkpoint=None, sharding=None):
    """What a run of a case logs, but for times, and its weights."""
    run = trainer(case, folder, processes, sharding)
    run.train(resume_from_checkpoint=checkpoint)
    left_out = ("runtime", "per_second", "flos", "epoch")  # the last counts micro-batches of a process
    logs = [{k: v for k, v in row.items() if not any(t in k for t in left_out)} for row in run.state.log_history]
    found = {"logs": logs, "weights": {name: p.detach().clone() for name, p in run.model.named_parameters()}}
    if sharding:
        shards = {n: p for n, p in run.model.state_dict().items() if isinstance(p, DTensor)}
        found["shards"] = {name: (tuple(p.shape), tuple(p.to_local().shape)) for name, p in shards.items()}
        whole = run.accelerator.get_state_dict(run.model)
        found["weights"] = {name: whole.get(name) for name in found["weights"]}
        run.save_model()
    return found


def main(folder):
    torch.set_num_threads(1)
    found = {case: outcome(case, folder / case, 2) for case in CASES}
    found["resumed"] = outcome(SAVED, folder / "resumed", 2, str(folder / SAVED / "checkpoint-2"))
    shard_on_cpus()
    sharded = folder / "sharded"
    found |= {("sharded", case): outcome(case, sharded / case, 2, None, SETTINGS) for case in SHARDED}
    checkpoint = str(sharded / SAVED / "checkpoint-2")
    found["sharded, resumed"] = outcome(SAVED, sharded / "resumed", 2, checkpoint, SETTINGS)
    torch.save(found, folder / f"found-{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
