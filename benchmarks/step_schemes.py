"""The schemes of a training step: baselines, and ours as settings of `OfflineTrainer`.

To add a scheme of ours, add a line to `OURS`: its name, and the fields of `OREOConfig` that select it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.baseline_steps import ADAM_BETAS, ALPHA, BETA, CLIP, LEARNING_RATE


@dataclass(frozen=True)
class Scheme:
    """A way to make a training step.

    Attributes:
        label: what it is, in a table.
        bodies: passes through a whole body a token; a backward pass counts twice.
        heads: products with the head a response token.
        shares_prompts: whether the responses to a prompt read it once.
        settings: fields of `OREOConfig`.
        lora: whether the models train adapters.
        same_algorithm: whether it computes the published losses and gradients.
        onednn: whether linear layers may run in oneDNN; False: by PyTorch's default, as in the baselines.
        once: whether it is measured only once, to say where time comes from.
    """

    label: str
    bodies: float
    heads: float
    shares_prompts: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    lora: bool = False
    same_algorithm: bool = True
    onednn: bool = True
    once: bool = False


BASELINES = {
    "published": Scheme("published scheme: two policy passes, full logits, left-padded rows", 8, 5),
    "trl": Scheme("TRL's blocks: chunked log-probabilities, chunked exact KL", 7, 11),
}
_ONCE: dict[str, Any] = {"share_prompts": True, "precompute_ref_log_probs": True, "recompute_activations": True}
OURS = {
    "plain": Scheme("plain: naive head, every row with its prompt", 7, 5, settings={"head": "naive"}, once=True),
    "same": Scheme("prompts shared, reference computed once", 6, 4, shares_prompts=True, settings=_ONCE),
    "same-default": Scheme(
        "the same, linear layers by PyTorch's default",
        6,
        4,
        shares_prompts=True,
        settings=_ONCE,
        onednn=False,
        once=True,
    ),
    "lora": Scheme(
        "two LoRA adapters on one trunk, prompts shared",
        5,
        4,
        True,
        {"share_prompts": True, "recompute_activations": True},
        lora=True,
        same_algorithm=False,
        once=True,
    ),
    "lora-trunk": Scheme(
        "LoRA on a shared trunk, prompts shared, reference computed once",
        2,
        3,
        shares_prompts=True,
        settings={**_ONCE, "shared_trunk": True},
        lora=True,
        same_algorithm=False,
    ),
    "last-layers": Scheme(
        "last 6 layers on kept states, prompts shared",
        1.2,
        3,
        shares_prompts=True,
        settings={"train_layers": 6, "share_prompts": True},
        same_algorithm=False,
    ),
}
SCHEMES = {**BASELINES, **OURS}
SHORT = tuple(name for name in SCHEMES if name not in ("plain", "lora"))
"""Those that `make benchmark` measures on a CPU in its 25 minutes."""
COMMON: dict[str, Any] = {
    "beta": BETA,
    "kl_coef": ALPHA,
    "learning_rate": LEARNING_RATE,
    "adam_beta1": ADAM_BETAS[0],
    "adam_beta2": ADAM_BETAS[1],
    "max_grad_norm": CLIP,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 1_000,
}
"""Settings of every scheme of ours, equal to those of the baselines."""
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}
