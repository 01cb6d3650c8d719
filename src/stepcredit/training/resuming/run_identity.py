"""What makes two training runs the same: start, method, data and settings. Only then one resumes the other."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from stepcredit.models.actor_critic import ActorCritic
from stepcredit.models.adapters import is_peft
from stepcredit.training.data import TrainingData
from stepcredit.training.offline_config import OfflineConfig

END = ("max_steps", "num_train_epochs", "load_best_model_at_end", "metric_for_best_model", "greater_is_better")
"""Settings of where a run ends and which weights it keeps; they may differ where it goes on from a checkpoint."""
_THEIRS = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
           "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "seed", "data_seed",
           "bf16", "fp16", "neftune_noise_alpha", "dataloader_drop_last", *END)  # fmt: skip
"""Settings of transformers that change the weights."""
_FREE = ("head", "recompute_activations", "activation_cache", "trust_remote_code", "skip_bad")
"""Settings of this package that do not, or only through the data."""
_WEIGHTS = 4096
"""Weights of a tensor that tell it from another one."""


def run_identity(args: OfflineConfig, models: ActorCritic, data: TrainingData) -> dict[str, Any]:
    """Returns what determines the weights of a run, as JSON: hashes of the models and the data, and settings by name.

    Call it before training. Of each weight tensor some thousand numbers are read, and of a model with a LoRA adapter
    those of the base and the adapter's config, because the adapter starts from random numbers.
    """
    models_by_name = {f"start of {name}": model for name, model in models.parts().items()}
    if models.reference is not None:
        models_by_name["reference"] = models.reference
    theirs = {field.name for field in fields(TrainingArguments)}
    ours = [field.name for field in fields(args) if field.name not in theirs and field.name not in _FREE]
    return {
        "method": args.method,
        **{name: _hash_of_model(model) for name, model in models_by_name.items()},
        **{f"adapter of {name}": _adapter(model) for name, model in models.parts().items() if is_peft(model)},
        "training data": _hash_of_data(data),
        "number of items per step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **{name: getattr(args, name) for name in (*_THEIRS, *ours)},
    }


def _hash_of_model(model: Any) -> str:
    found = hashlib.sha256()
    for name, weight in model.named_parameters():
        if is_peft(model) and weight.requires_grad:
            continue
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // _WEIGHTS)].to("cpu", torch.float32)
        found.update(f"{name} {tuple(weight.shape)}".encode() + some.numpy().tobytes())
    return found.hexdigest()


def _adapter(model: Any) -> dict[str, Any]:
    """Returns the config of the adapter of a PEFT model, but for names and versions."""
    config = model.peft_config[model.active_adapter].to_dict()
    left_out = ("base_model_name_or_path", "revision", "peft_version")
    return {k: sorted(v) if isinstance(v, set) else v for k, v in config.items() if k not in left_out}


def _hash_of_data(data: TrainingData) -> str:
    found = hashlib.sha256()
    for item in data.items:
        for t in item:
            found.update(f"{t.prompt_id} {t.outcome} {t.group_number} {t.cut} {len(t)} {len(item)}".encode())
            for array in (t.ids, t.action_mask, t.step_id, t.reward, t.behavior_log_prob):
                found.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
