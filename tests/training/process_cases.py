"""Training runs that one process and two must do alike.

`process_cases.py FOLDER` runs them all in a process of a distributed run; the main one writes `FOLDER/found.pt`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import PrinterCallback

from doubles.models import tiny_llama
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
    "oreo, shared trunk, shared prompts": {"method": "oreo", "shared_trunk": True, "share_prompts": True},
    "oreo, last layer, shared prompts": {"method": "oreo", "train_layers": 1, "share_prompts": True},
    "dpo, reference computed before": {"method": "dpo", "precompute_ref_log_probs": True},
    "dro, bins, not sorted": {"method": "dro", "value_loss": "categorical", "value_range": [0.0, 1.0],
                              "length_sorted": False},
    "kto, evaluated": {"method": "kto", "eval_strategy": "steps", "eval_steps": 2, "evaluated": 7},
    "sft, dropping the last": {"method": "sft", "dataloader_drop_last": True},
}  # fmt: skip
"""Settings by name; `episodes` and `evaluated` are numbers of episodes."""


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


def trainer(case, folder, processes):
    """The trainer of a case: a step has the same items whatever the number of processes."""
    given = {"head": "fused", "per_device_train_batch_size": 2, **CASES[case]}
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
        model=tiny_llama().double(), args=args, train_dataset=episodes(count), processing_class=byte_tokenizer(),
        eval_dataset=episodes(evaluated) if evaluated else None,
    )  # fmt: skip
    run.remove_callback(PrinterCallback)
    return run


def outcome(case, folder, processes, checkpoint=None):
    """What a run of a case logs, but for times, and its weights."""
    run = trainer(case, folder, processes)
    run.train(resume_from_checkpoint=checkpoint)
    left_out = ("runtime", "per_second", "flos", "epoch")  # the last counts micro-batches of a process
    logs = [{k: v for k, v in row.items() if not any(t in k for t in left_out)} for row in run.state.log_history]
    return {"logs": logs, "weights": {name: p.detach().clone() for name, p in run.model.named_parameters()}}


def main(folder):
    torch.set_num_threads(1)
    found = {case: outcome(case, folder / case, 2) for case in CASES}
    checkpoint = folder / SAVED / "checkpoint-2"
    found["resumed"] = outcome(SAVED, folder / "resumed", 2, str(checkpoint))
    if torch.distributed.get_rank() == 0:
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
