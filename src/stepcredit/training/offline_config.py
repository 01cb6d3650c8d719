"""The settings common to all methods; field names follow transformers and TRL."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from transformers import SchedulerType, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError, quoted
from stepcredit.flags import OF_EPISODES, flag
from stepcredit.logs.columns import ImportRules
from stepcredit.settings import Limits, Named, check_settings, choose, json_object

THEIR_LIMITS: dict[str, Limits] = {
    "num_train_epochs": Limits(above=0),
    "per_device_train_batch_size": Limits(at_least=1),
    "per_device_eval_batch_size": Limits(at_least=1),
    "gradient_accumulation_steps": Limits(at_least=1),
    "seed": Limits(at_least=0, at_most=2**32 - 1),
    "data_seed": Limits(at_least=0, at_most=2**32 - 1),
    "learning_rate": Limits(at_least=0),
    "adam_beta1": Limits(at_least=0, below=1),
    "adam_beta2": Limits(at_least=0, below=1),
    "adam_epsilon": Limits(at_least=0),
    "weight_decay": Limits(at_least=0),
    "max_grad_norm": Limits(at_least=0),
    "warmup_steps": Limits(at_least=0),
    "logging_steps": Limits(above=0),
    "save_steps": Limits(above=0),
    "save_total_limit": Limits(at_least=1),
    "output_dir": Limits(not_empty=True),
}
"""Limits of settings that transformers declares without checking them."""


@dataclass
class OfflineConfig(Named, TrainingArguments):
    """Settings common to all methods, in addition to those of `transformers.TrainingArguments`.

    Defaults follow OREO's recipe (arXiv 2412.16145, appendix): AdamW (0.9, 0.95), no weight decay, gradients
    clipped at 1, cosine decay after 3% warm-up.
    """

    method: ClassVar[str]
    trains_value: ClassVar[bool] = False
    """Whether a value model is trained with the policy."""

    output_dir: str = field(default="trainer_output", metadata=flag("output_dir"))
    seed: int = field(default=42, metadata=flag("seed"))
    learning_rate: float = field(default=5e-6, metadata={"help": "Peak learning rate of the policy."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second AdamW coefficient."})
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay."})
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "Gradients are clipped to this norm, those of policy and value apart."}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up: steps, or a share of all if below 1."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the episodes."})
    max_steps: int = field(default=-1, metadata={"help": "Optimizer steps; -1: as many as num_train_epochs take."})
    per_device_train_batch_size: int = field(
        default=8, metadata={"help": "Episodes (DPO: pairs) of a micro-batch on each device."}
    )
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Micro-batches per optimizer step."})
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16; what is trained stays in float32."})
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU even if there is a GPU."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many optimizer steps."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Kept off: training stops at the first loss that is not finite."}
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint: no, epoch, or steps."})
    save_steps: float = field(
        default=500, metadata={"help": "With save_strategy steps: a checkpoint every so many optimizer steps."}
    )
    save_total_limit: int | None = field(
        default=None, metadata={"help": "Keep only so many newest checkpoints; default: all."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "A checkpoint to go on from, or false to start over; default: the newest whole one of the run."
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: episodes are no table."})
    max_length: Annotated[int | None, Limits(at_least=2)] = field(
        default=2048,
        metadata={"help": "Longest episode in tokens; longer ones are left out and counted."},
    )
    reward_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "Lowest and highest reward; an episode outside is an error. Default: 0 1 for rows given in Python, "
            "and what they were imported with for a folder of episodes."
        },
    )
    skip_bad: bool = field(
        default=False,
        metadata={
            "help": "Leave out episodes that cannot be encoded (a prompt with no room for a response, text that the "
            "tokenizer does not give back, …) and keep them in quarantine.jsonl; otherwise the first one is an error."
        },
    )
    truncated: str = field(
        default="drop",
        metadata={
            "help": "Episodes cut by the length limit: drop (left out and counted), zero (a return of 0, its steps' "
            "rewards left out), or bootstrap (V at the cut stands for the reward; methods with a value model).",
            "choices": ["drop", "zero", "bootstrap"],
        },
    )
    max_per_outcome: Annotated[int | None, Limits(at_least=1)] = field(
        default=None,
        metadata={
            "help": "At most so many right and so many wrong responses of each prompt, and no more right than wrong "
            "ones but for a single right one; drawn by seed.",
        },
    )
    step_delimiters: list[str] | None = field(default=None, metadata=flag("step_delimiters", OF_EPISODES))
    max_step_tokens: Annotated[int | None, Limits(at_least=1)] = field(
        default=256, metadata={"help": "A step without a delimiter ends after so many tokens, in search as well."}
    )
    chat_template: str | None = field(default=None, metadata=flag("chat_template", "It is saved with the policy."))
    merge_system_message: bool = field(default=False, metadata=flag("merge_system_message"))
    split_turns: bool = field(
        default=False,
        metadata={
            "help": "Make each assistant turn of an imported conversation an episode of its own, in the state that the "
            "policy saw, with the outcome that the conversation had: for chat templates that change earlier turns."
        },
    )
    share_prompts: bool = field(
        default=False,
        metadata={"help": "Keep the responses to a prompt together in a step; read it once per micro-batch."},
    )
    train_layers: Annotated[int | None, Limits(at_least=1)] = field(
        default=None,
        metadata={
            "help": "Train only so many last layers of policy and value model, with the norm after them; the hidden "
            "states that enter them, and the reference, are computed once. Default: all layers."
        },
    )
    precompute_ref_log_probs: bool = field(
        default=False,
        metadata={
            "help": "Run the reference once before training: its log-probabilities are kept, or its last hidden states "
            "where the method needs the exact KL."
        },
    )
    activation_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for what is computed once; several runs may share it. Default: activations in output_dir."
        },
    )
    activation_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Type in which hidden states are kept; bfloat16 needs half the space, and its error is logged. "
            "Default: that of the computation.",
            "choices": ["float32", "bfloat16"],
        },
    )
    recompute_activations: bool = field(
        default=False,
        metadata={
            "help": "Compute norms, activation functions and other cheap parts again in the backward pass: two "
            "fifths less memory for activations at about the same speed."
        },
    )
    head: str = field(
        default="auto",
        metadata={
            "help": "The language-model head: naive holds the logits of all actions of a micro-batch, fused never "
            "does, auto takes the faster one that fits, measured at the first micro-batch.",
            "choices": ["auto", "naive", "fused"],
        },
    )
    length_sorted: bool = field(
        default=True,
        metadata={"help": "Order the episodes of one optimizer step by length, so that micro-batches pad little."},
    )
    disable_dropout: bool = field(default=True, metadata={"help": "No dropout in policy, value and reference."})
    trust_remote_code: bool = field(default=False, metadata=flag("trust_remote_code"))
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of from_pretrained, as JSON."}
    )

    def __post_init__(self) -> None:
        check_settings(self, THEIR_LIMITS)
        self._check_others()
        if not torch.accelerator.is_available():
            self.use_cpu = True  # else transformers refuses bf16
        try:
            super().__post_init__()
        except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError) as error:
            raise InputError(f"transformers refuses these settings: {error}", "train") from error
        check_zero_stage(self.deepspeed_plugin)
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # PyTorch warns where there is nothing to copy to
        if self.split_turns and self.truncated == "bootstrap":
            raise InputError("a conversation that was cut has no V for its earlier turns; choose drop or zero",
                             "truncated")  # fmt: skip
        if self.share_prompts and (self.gradient_checkpointing or getattr(self, "activation_checkpointing", False)):
            raise InputError("needs keys and values, which gradient checkpointing does not keep; choose one of the two",
                             "share_prompts")  # fmt: skip
        if self.save_only_model:
            raise InputError("leaves checkpoints that training cannot resume from; leave it out, or choose "
                             "--save_strategy no", "save_only_model")  # fmt: skip
        self.step_rule  # noqa: B018 - raises where it is none
        self.import_rules  # noqa: B018 - likewise

    def _check_others(self) -> None:
        """Checks settings that transformers checks late or not at all, beyond the limits of numbers."""
        if self.max_steps == 0 or self.max_steps < -1:
            raise InputError(f"{self.max_steps} must be 1 or more; or -1 for num_train_epochs passes", "max_steps")
        if isinstance(self.model_init_kwargs, str):
            self.model_init_kwargs = json_object(self.model_init_kwargs, "model_init_kwargs")
        if isinstance(self.deepspeed, str) and not self.deepspeed.strip().startswith("{"):
            if not Path(self.deepspeed).is_file():
                raise InputError(f"{quoted(self.deepspeed)}: no such file", "deepspeed")
            json_object(Path(self.deepspeed).read_text(encoding="utf-8", errors="replace"), "deepspeed")
        wanted = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        for name in wanted:
            if name not in ("all", "none", *INTEGRATION_TO_CALLBACK):
                known = sorted(INTEGRATION_TO_CALLBACK)
                raise InputError(f"unknown tracker {quoted(name)}; choose from {', '.join(known)} or none", "report_to")
        if self.truncated == "bootstrap" and not self.trains_value:
            raise InputError(f"{self.method} has no V to stand for the reward; choose drop or zero", "truncated")
        choose(self.lr_scheduler_type, SchedulerType, "lr_scheduler_type")
        choose(self.optim, OptimizerNames, "optim")

    @property
    def precomputes(self) -> bool:
        """Whether something is computed once before training."""
        return self.train_layers is not None or self.precompute_ref_log_probs

    @property
    def import_rules(self) -> ImportRules:
        """The import rules of rows given in place of episodes."""
        return ImportRules() if self.reward_range is None else ImportRules.of_range([*map(float, self.reward_range)])

    @property
    def step_rule(self) -> StepRule:
        """The rule for step boundaries; line breaks by default."""
        return StepRule(("\n",) if self.step_delimiters is None else tuple(self.step_delimiters), self.max_step_tokens)


def check_zero_stage(plugin: Any) -> None:
    """Checks accelerate's plugin for DeepSpeed, if there is one; before a model is loaded, which ZeRO-3 would shard.

    Raises:
        InputError: the stage is 3.
    """
    if plugin is not None and plugin.zero_stage == 3:
        raise InputError("3 shards weights that are read outside of their layers; choose 2, or FSDP2 "
                         "(recipes/accelerate/fsdp2.yaml)", "zero_stage")  # fmt: skip
