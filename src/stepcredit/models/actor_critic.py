"""Policy, value model and reference in one module with one forward pass."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.files import folder_written_whole
from stepcredit.models.adapters import is_peft, load_adapter, merged, save_adapter
from stepcredit.models.checks import Role, check_loaded
from stepcredit.models.folders import CONFIG, check_model_folder

POLICY, VALUE = "policy", "value"
_ROLES: dict[str, Role] = {POLICY: "policy", VALUE: "value model"}


class ActorCriticOutput(NamedTuple):
    """Logits [B, T, V] of policy and reference and values [B, T] over positions; None where not computed."""

    logits: Float[Tensor, "B T V"]
    ref_logits: Float[Tensor, "B T V"] | None
    value: Float[Tensor, "B T"] | None


class ActorCritic(nn.Module):
    """A policy and, where the method needs one, a separate value model, as one trainable module.

    Not a `PreTrainedModel`: each model is saved into a plain folder (`policy/`, `value/`) that transformers loads. The
    reference is not among the module's parameters: it is a frozen copy, or the policy with its adapter disabled.

    Args:
        policy: a causal language model, or a PEFT model around one.
        value: a token-classification model with one label, or a PEFT model around one, or None.
        reference: a frozen causal language model; None with a PEFT policy, whose base is the reference, or
            where the method needs none.
    """

    def __init__(self, policy: Any, value: Any | None = None, reference: Any | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.value = value
        self.__dict__["reference"] = reference  # not registered: neither trained, nor saved, nor wrapped

    reference: Any | None

    @property
    def config(self) -> Any:
        """The policy's config, as `transformers.Trainer` expects it."""
        return self.policy.config

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"], needs_reference: bool
    ) -> ActorCriticOutput:
        """Runs each model on the batch, the reference without gradient."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        logits = self.policy(**inputs).logits
        ref_logits = None
        if needs_reference:
            with torch.no_grad(), self.reference_model() as reference:
                ref_logits = reference(**inputs).logits
        value = None if self.value is None else values_at_positions(self.value, **inputs)
        return ActorCriticOutput(logits, ref_logits, value)

    @contextlib.contextmanager
    def reference_model(self) -> Iterator[Any]:
        """Yields the reference; disables the adapter meanwhile where the policy is its own reference."""
        if self.reference is not None:
            if self.reference.device != self.policy.device:
                self.reference.to(self.policy.device)
            yield self.reference
        elif is_peft(self.policy):
            with self.policy.disable_adapter():
                yield self.policy
        else:
            raise InputError("this method needs a reference; give ref_model or a peft_config", "ref_model")

    def parts(self) -> dict[str, Any]:
        """Returns the trainable models by folder name."""
        return {POLICY: self.policy} | ({VALUE: self.value} if self.value is not None else {})

    def save_checkpoint(self, folder: str | Path) -> None:
        """Saves weights for resuming: whole models, or only the adapters of PEFT models."""
        for name, model in self.parts().items():
            if is_peft(model):
                save_adapter(model, Path(folder) / name)
            else:
                model.save_pretrained(Path(folder) / name, safe_serialization=True)

    def save_pretrained(self, folder: str | Path) -> None:
        """Saves plain folders `policy/` and `value/` that transformers loads.

        An adapter is merged into a copy of its base model, and also saved by itself (`policy_adapter/`).
        """
        for name, model in self.parts().items():
            if is_peft(model):
                save_adapter(model, Path(folder) / f"{name}_adapter")
                model = merged(model)
            with folder_written_whole(Path(folder) / name) as part:
                model.save_pretrained(part, safe_serialization=True)

    def load_checkpoint(self, folder: str | Path) -> None:
        """Loads the weights written by `save_checkpoint`, bit for bit, including tied embeddings.

        Raises:
            InputError: a model is missing, damaged, or does not fit.
        """
        for name, model in self.parts().items():
            part = Path(folder) / name
            if not part.is_dir():
                raise InputError(f"the checkpoint has no {name}/ folder", str(folder))
            if is_peft(model):
                load_adapter(model, part)
            else:
                _load_weights(model, part, _ROLES[name])


def values_at_positions(value_model: Any, **inputs: Any) -> Float[Tensor, "B T"]:
    """Computes V at every position, in float32 or wider even under autocast: bf16 values near 1 are 0.4% apart.

    Args:
        value_model: a token-classification model with one label.
        inputs: the inputs of its transformer: input_ids, attention_mask, ….
    """
    model = value_model.get_base_model() if is_peft(value_model) else value_model
    hidden = model.base_model(**inputs).last_hidden_state
    head = model.score if hasattr(model, "score") else model.classifier
    wide = torch.promote_types(hidden.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        if all(parameter.dtype == wide for parameter in head.parameters()):
            return head(hidden.to(wide)).squeeze(-1)  # type: ignore[no-any-return]
        weights = {name: parameter.to(wide) for name, parameter in head.named_parameters()}
        return torch.func.functional_call(head, weights, hidden.to(wide)).squeeze(-1)  # type: ignore[no-any-return]


def _load_weights(model: Any, folder: Path, role: Role) -> None:
    """Loads weights by `from_pretrained`, which handles shards and tied weights, in the widest dtype of the model."""
    if not (folder / CONFIG).exists():
        raise InputError("has only an adapter, but the run trains a whole model", str(folder))
    check_model_folder(folder, trust_remote_code=True)
    dtype = functools.reduce(torch.promote_types, {p.dtype for p in model.parameters()})
    saved, info = type(model).from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    check_loaded(saved, info, str(folder), role)
    try:
        model.load_state_dict(saved.state_dict())
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint does not fit the model: {str(error).splitlines()[-1].strip()}", str(folder)
        ) from error
