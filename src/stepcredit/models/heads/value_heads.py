"""Values from hidden states: the head of a value model, and a value head on the policy's own trunk."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stepcredit.models.adapters import is_peft, merged
from stepcredit.models.loading import value_config, value_model_from


def values_at_positions(value_model: Any, **inputs: Any) -> Float[Tensor, "B T"]:
    """Computes V at every position.

    Args:
        value_model: a token-classification model with one label.
        inputs: the inputs of its transformer: input_ids, attention_mask, ….
    """
    model = value_model.get_base_model() if is_peft(value_model) else value_model
    return values_from(value_model, model.base_model(**inputs).last_hidden_state)


def values_from(value_model: Any, hidden: Float[Tensor, "B T H"]) -> Float[Tensor, "B T"]:
    """Computes V from last hidden states, in float32 or wider even under autocast: bf16 values near 1 are 0.4% apart.

    Args:
        value_model: a token-classification model with one label, or a `TrunkValue`.
        hidden: the last hidden states of its transformer, or of the policy's.
    """
    model = value_model.get_base_model() if is_peft(value_model) else value_model
    head = model.score if hasattr(model, "score") else model.classifier
    wide = torch.promote_types(hidden.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        if all(parameter.dtype == wide for parameter in head.parameters()):
            return head(hidden.to(wide)).squeeze(-1)  # type: ignore[no-any-return]
        weights = {name: parameter.to(wide) for name, parameter in head.named_parameters()}
        return torch.func.functional_call(head, weights, hidden.to(wide)).squeeze(-1)  # type: ignore[no-any-return]


class TrunkValue(nn.Module):
    """A value function that is one linear map, initially zero, of the policy's last hidden states.

    It is saved as a value model whose transformer is a copy of the policy's (`as_model`).

    Args:
        policy: a causal language model, or a PEFT model around one.

    Attributes:
        config: the config of the saved value model.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.config = value_config(policy.get_base_model() if is_peft(policy) else policy)
        self.score = nn.Linear(self.config.hidden_size, 1, bias=False, dtype=self.config.dtype)
        nn.init.zeros_(self.score.weight)

    def as_model(self, policy: Any) -> Any:
        """Returns this value function as a plain token-classification model."""
        model = value_model_from(merged(policy) if is_peft(policy) else policy)
        model.config = self.config
        model.score.load_state_dict(self.score.state_dict())
        return model
