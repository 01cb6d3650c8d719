"""Values from hidden states: the head of a value model, and a value head on the policy's own trunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stepcredit.models.adapters import is_peft, merged
from stepcredit.models.loading import value_config, value_model_from
from stepcredit.models.value_bins import value_bins
from stepcredit.objectives.value_losses import expected_value


def values_at_positions(value_model: Any, **inputs: Any) -> Float[Tensor, "B T"]:
    """Computes V at every position.

    Args:
        value_model: a token-classification model with one label, or one for each bin.
        inputs: the inputs of its transformer: input_ids, attention_mask, ….
    """
    model = value_model.get_base_model() if is_peft(value_model) else value_model
    hidden = model.base_model(**inputs).last_hidden_state
    return values_of_logits(value_logits_from(value_model, hidden), value_model)


def values_of_logits(logits: Float[Tensor, "*N K"], value_model: Any) -> Float[Tensor, "*N"]:
    """Returns V from what the head of a value model gives: V itself, or logits of bins, whose mean it is.

    Everything that reads V asks this function.
    """
    bins = value_bins(value_model.config)
    if bins is None:
        return logits.squeeze(-1)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return expected_value(logits, torch.tensor(bins, dtype=wide, device=logits.device))


def value_logits_from(value_model: Any, hidden: Float[Tensor, "B T H"]) -> Float[Tensor, "B T K"]:
    """Computes what the head of a value model gives (`values_of_logits`) from last hidden states, in float32 or wider
    even under autocast: bf16 values near 1 are 0.4% apart.

    Args:
        value_model: a token-classification model with one label, or one for each bin, or a `TrunkValue`.
        hidden: the last hidden states of its transformer, or of the policy's.
    """
    model = value_model.get_base_model() if is_peft(value_model) else value_model
    head = model.score if hasattr(model, "score") else model.classifier
    wide = torch.promote_types(hidden.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        if all(parameter.dtype == wide for parameter in head.parameters()):
            return head(hidden.to(wide))  # type: ignore[no-any-return]
        weights = {name: parameter.to(wide) for name, parameter in head.named_parameters()}
        return torch.func.functional_call(head, weights, hidden.to(wide))  # type: ignore[no-any-return]


class TrunkValue(nn.Module):
    """A value function that is one linear map, initially zero, of the policy's last hidden states.

    It is saved as a value model whose transformer is a copy of the policy's (`as_model`).

    Args:
        policy: a causal language model, or a PEFT model around one.
        bins: the bins of V; None: it is the map's only output.

    Attributes:
        config: the config of the saved value model.
    """

    def __init__(self, policy: Any, bins: Sequence[float] | None = None) -> None:
        super().__init__()
        self.config = value_config(policy.get_base_model() if is_peft(policy) else policy, bins)
        self.score = nn.Linear(self.config.hidden_size, self.config.num_labels, bias=False, dtype=self.config.dtype)
        nn.init.zeros_(self.score.weight)

    def as_model(self, policy: Any) -> Any:
        """Returns this value function as a plain token-classification model."""
        model = value_model_from(merged(policy) if is_peft(policy) else policy, value_bins(self.config))
        model.config = self.config
        model.score.load_state_dict(self.score.state_dict())
        return model
