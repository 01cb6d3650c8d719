"""Training runs that DeepSpeed and one process must do alike: `deepspeed_cases.py FOLDER`, in each of two processes."""

import sys
from pathlib import Path

import torch
from process_cases import SAVED, outcome

CASES = ("sft", "oreo", "dqo", "kto, one item in the last step", SAVED, "dpo, reference computed before",
         "dqo, last layer, bins", "oreo, LoRA")  # fmt: skip
SINGLE = {"dtype": torch.float32, "max_grad_norm": 1e9}
"""DeepSpeed trains in single precision, and clips the gradients of policy and value model together."""
ZERO2 = {
    "zero_optimization": {"stage": 2},
    "zero_allow_untested_optimizer": True,
    **dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
        "auto",
    ),
}


def main(folder):
    torch.set_num_threads(1)
    settings = {**SINGLE, "deepspeed": ZERO2}
    found = {case: outcome(case, folder / case, 2, None, settings) for case in CASES}
    found["resumed"] = outcome(SAVED, folder / "resumed", 2, str(folder / SAVED / "checkpoint-2"), settings)
    torch.save(found, folder / f"found-{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
