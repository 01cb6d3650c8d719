"""Policy, value model and reference in one module with one forward pass."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stepcredit.episodes.alignment import at_states
from stepcredit.errors import InputError
from stepcredit.files import folder_written_whole
from stepcredit.models.adapters import is_peft, load_adapter, merged, save_adapter
from stepcredit.models.bodies.freed_memory import giving_back
from stepcredit.models.bodies.passes import Way, base_of, hidden_states, run, sequences, split
from stepcredit.models.bodies.recomputation import recomputing
from stepcredit.models.checks import Role, check_loaded
from stepcredit.models.folders import CONFIG, check_model_folder
from stepcredit.models.heads.action_statistics import ActionStatistics, at_actions, over_columns, statistics_of
from stepcredit.models.heads.fused_head import head_statistics, one_pass_loss
from stepcredit.models.heads.linear_heads import LinearHead, linear_head
from stepcredit.models.heads.value_heads import TrunkValue, value_logits_from, values_of_logits

POLICY, VALUE = "policy", "value"
SAVED = (POLICY, VALUE, f"{POLICY}_adapter", f"{VALUE}_adapter")
"""Folders that `ActorCritic.save_pretrained` may write."""
_ROLES: dict[str, Role] = {POLICY: "policy", VALUE: "value model"}


class ActorCriticOutput(NamedTuple):
    """Statistics of the actions [B, A], and values [B, T] over positions; None where not computed. `value_logits` are
    those of the bins, where the value model classifies."""

    statistics: ActionStatistics
    value: Float[Tensor, "B T"] | None
    value_logits: Float[Tensor, "B T K"] | None = None


Objective = Callable[[ActorCriticOutput, slice], Float[Tensor, ""]]
"""The loss of the rows of a slice, summed, from their output."""


class ActorCritic(nn.Module):
    """A policy and, where the method needs one, a value function, as one trainable module.

    Not a `PreTrainedModel`: each model is saved into a plain folder (`policy/`, `value/`) that transformers loads. The
    reference is not among the module's parameters: it is a frozen copy, the policy with its adapter disabled, or was
    computed before training.

    Args:
        policy: a causal language model, or a PEFT model around one.
        value: a token-classification model with one label, or one for each bin of V, or a PEFT model around one, or a
            `TrunkValue`, or None.
        reference: a frozen causal language model; None with a PEFT policy, whose base is the reference, or
            where the method needs none, or where it was computed before.
        train_layers: only so many last layers of policy and value model are trained, and the batches have the hidden
            states that enter them; None: all layers.

    Attributes:
        fused: whether the fused head computes the statistics.
        linear: whether the head of the policy is known to be a linear map of its hidden states; otherwise its own
            forward pass computes the logits.
        recomputes: whether norms and activation functions are computed again in the backward pass.
        onednn: whether linear layers run in oneDNN in training steps.
        way: how rows, and prefixes that they share, are read.
        reference_head: the head of a reference whose hidden states come with the batches.
        bodies: the transformers of policy and value model without their heads, and only the layers that are trained.
    """

    bodies: dict[str, Any]
    reference: Any | None
    reference_head: LinearHead | None

    def __init__(
        self, policy: Any, value: Any | None = None, reference: Any | None = None, train_layers: int | None = None
    ) -> None:
        super().__init__()
        self.policy = policy
        self.value = value
        self.fused, self.linear, self.recomputes, self.onednn = False, True, False, False
        self.way: Way = "shared"
        self.train_layers = train_layers
        self.__dict__["reference"] = reference  # not registered: neither trained, nor saved, nor wrapped
        self.reference_head = None
        bodies = {name: base_of(model) for name, model in self.parts().items() if not isinstance(model, TrunkValue)}
        if train_layers is not None:
            bodies = {name: split(body, train_layers)[1] for name, body in bodies.items()}
        self.__dict__["bodies"] = bodies

    @property
    def config(self) -> Any:
        """The policy's config, as `transformers.Trainer` expects it."""
        return self.policy.config

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Enables gradient checkpointing of all models, as `transformers.Trainer` expects it."""
        for part in self.parts().values():
            if hasattr(part, "gradient_checkpointing_enable"):
                part.gradient_checkpointing_enable(**kwargs)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """The name of `gradient_checkpointing_enable` in newer releases."""
        for part in self.parts().values():
            if hasattr(part, "activation_checkpointing_enable"):
                part.activation_checkpointing_enable(**kwargs)

    def forward(
        self,
        batch: dict[str, Any],
        needs_reference: bool = False,
        needs_kl: bool = False,
        objective: Objective | None = None,
        instead: Callable[[], Any] | None = None,
    ) -> Any:
        """Runs each model on a batch, the reference without gradient.

        Args:
            batch: fields of `episodes.alignment.Batch`, possibly with shared prefixes (`episodes.prefixes`), and with
                what was computed before training: `states` and `value_states`, the hidden states that enter the first
                trained layer (in `prefix` too), `ref_states` [B, A, H], the reference's last hidden states, or
                `ref_log_prob` [B, A].
            needs_reference: whether to compute log-probabilities under the reference.
            needs_kl: whether to compute the exact KL to the reference.
            objective: the loss of rows, which adds up over rows; the fused head calls it while it has their logits.
            instead: what runs in place of all this, inside the forward pass of the module: only there are parameters
                whole that are sharded over processes.

        Returns:
            An `ActorCriticOutput`, or the loss if there is an objective, or the result of `instead`.
        """
        if instead is not None:
            return instead()
        with self._saving_memory():
            hidden, own = self._policy_head(batch)
            value = self._value_logits(batch, hidden)
        reference = self._reference_head(batch) if needs_reference and "ref_log_prob" not in batch else None
        mask = batch["action_mask"]
        action = batch["action"][mask]
        if objective is not None and self.fused and torch.is_grad_enabled():
            return self._one_pass(batch, own, reference, value, needs_kl, objective)
        if self.fused:
            head, inputs = own
            assert head is not None
            statistics = head_statistics(head, inputs, action, *(reference or (None, None)), needs_kl=needs_kl)
        else:
            ref_logits = None if reference is None else _logits(reference)
            statistics = statistics_of(_logits(own), ref_logits, action, needs_kl)
        output = self.output(_with_reference(over_columns(statistics, mask), batch), value)
        return output if objective is None else objective(output, slice(0, len(mask)))

    @contextlib.contextmanager
    def _saving_memory(self) -> Iterator[None]:
        """Context manager of the bodies' forward passes, for less memory until the end of their backward passes."""
        bodies = list(self.bodies.values()) if torch.is_grad_enabled() else []
        with giving_back(bodies), recomputing(bodies if self.recomputes else []):
            yield

    def _one_pass(
        self,
        batch: dict[str, Any],
        own: _HeadInputs,
        reference: _HeadInputs | None,
        value: Tensor | None,
        needs_kl: bool,
        objective: Objective,
    ) -> Float[Tensor, ""]:
        mask = batch["action_mask"]
        row_of_action = mask.nonzero()[:, 0]
        row = row_of_action.tolist()
        head, inputs = own
        assert head is not None

        def loss_of(statistics: ActionStatistics, others: tuple[Tensor, ...], first: int, last: int) -> Tensor:
            rows = slice(row[first], row[last - 1] + 1)
            part: dict[str, Any] = {n: batch[n][rows] for n in ("action_mask", "ref_log_prob") if n in batch}
            columns = _with_reference(over_columns(statistics, part["action_mask"]), part)
            return objective(self.output(columns, others[0][rows] if others else None), rows)

        return one_pass_loss(
            head,
            inputs,
            batch["action"][mask],
            row_of_action,
            loss_of,
            *(reference or (None, None)),
            others=() if value is None else (value,),
            needs_kl=needs_kl,
        )

    def output(self, statistics: ActionStatistics, logits: Float[Tensor, "B T K"] | None) -> ActorCriticOutput:
        """Returns an output from the statistics of actions and what the head of the value model gives."""
        if logits is None:
            return ActorCriticOutput(statistics, None)
        value = values_of_logits(logits, self.value)
        return ActorCriticOutput(statistics, value, logits if logits.shape[-1] > 1 else None)

    def value_logits(self, batch: dict[str, Any]) -> Float[Tensor, "B T K"]:
        """Returns what the head of a value model of its own gives over positions; nothing else runs."""
        with self._saving_memory():
            logits = self._value_logits(batch, None)
        assert logits is not None
        return logits

    def _value_logits(self, batch: dict[str, Any], hidden: Tensor | None) -> Float[Tensor, "B T K"] | None:
        if self.value is None:
            return None
        if isinstance(self.value, TrunkValue):
            assert hidden is not None
            return value_logits_from(self.value, hidden)
        states = "value_states" if "value_states" in batch else _states(batch)
        return value_logits_from(self.value, hidden_states(self.bodies[VALUE], sequences(batch, states), self.way))

    def _policy_head(self, batch: dict[str, Any]) -> tuple[Tensor | None, _HeadInputs]:
        """Returns the policy's last hidden states [B, T, H], and its head with the states of the actions."""
        if not self.linear:
            return None, _opaque(self.policy, batch, self.way)
        hidden = hidden_states(self.bodies[POLICY], sequences(batch, _states(batch)), self.way)
        return hidden, _head_inputs(self.policy, at_actions(at_states(hidden), batch["action_mask"]))

    def _reference_head(self, batch: dict[str, Any]) -> _HeadInputs:
        """Returns the reference's head with the states of the actions."""
        if "ref_states" in batch:
            assert self.reference_head is not None
            states = at_actions(batch["ref_states"], batch["action_mask"]).to(self.reference_head.weights[0].dtype)
            biases = [states.new_ones(len(states), 1)] * (len(self.reference_head.weights) - 1)
            return self.reference_head, (states, *biases)
        with torch.no_grad(), self.reference_model() as reference:
            if not self.linear:
                return _opaque(reference, batch, self.way)
            hidden = hidden_states(base_of(reference), sequences(batch), self.way)
            return _head_inputs(reference, at_actions(at_states(hidden), batch["action_mask"]))

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

    def release_reference(self) -> None:
        """Drops the reference, whose hidden states or log-probabilities come with the batches, but for its head."""
        with self.reference_model() as reference:
            hidden = torch.zeros(1, self.config.get_text_config().hidden_size, device=reference.device)
            head = linear_head(reference, hidden)
        assert head is not None
        weights = tuple(w.detach().clone() if w.requires_grad else w for w in head[0].weights)
        self.reference_head = head[0]._replace(weights=weights)
        self.__dict__["reference"] = None

    def parts(self) -> dict[str, Any]:
        """Returns the trainable models by folder name."""
        return {POLICY: self.policy} | ({VALUE: self.value} if self.value is not None else {})

    def save_checkpoint(self, folder: str | Path, tokenizer: Any = None) -> None:
        """Saves weights for resuming, with the tokenizer: whole models, or only the adapters of PEFT models."""
        for name, model in self.parts().items():
            if is_peft(model):
                save_adapter(model, Path(folder) / name)
            else:
                self._plain(model).save_pretrained(Path(folder) / name, safe_serialization=True)
            if tokenizer is not None:
                tokenizer.save_pretrained(Path(folder) / name)

    def save_pretrained(self, folder: str | Path, tokenizer: Any = None) -> None:
        """Saves plain folders `policy/` and `value/` that transformers loads, with the tokenizer, each whole.

        An adapter is merged into a copy of its base model, and also saved by itself (`policy_adapter/`).
        """
        for name, model in self.parts().items():
            if is_peft(model):
                save_adapter(model, Path(folder) / f"{name}_adapter")
                model = merged(model)
            with folder_written_whole(Path(folder) / name) as part:
                self._plain(model).save_pretrained(part, safe_serialization=True)
                if tokenizer is not None:
                    tokenizer.save_pretrained(part)

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
            elif isinstance(model, TrunkValue):
                saved = self._plain(model)
                _load_weights(saved, part, _ROLES[name])
                model.score.load_state_dict(saved.score.state_dict())
            else:
                _load_weights(model, part, _ROLES[name])

    def _plain(self, model: Any) -> Any:
        """Returns a model in the form in which it is saved."""
        return model.as_model(self.policy) if isinstance(model, TrunkValue) else model


_HeadInputs = tuple[LinearHead | None, tuple[Tensor, ...]]
"""A head with its inputs at the states of N actions; None with their logits."""


def _head_inputs(model: Any, states: Float[Tensor, "N H"]) -> _HeadInputs:
    head = linear_head(model, states)
    assert head is not None, "settled before: see `first_use`"
    return head


def _opaque(model: Any, batch: dict[str, Any], way: Way) -> _HeadInputs:
    """Returns the logits at the states of the actions, from the model's own forward pass."""
    return None, (
        at_actions(
            at_states(run(model, sequences(batch), "shared" if way == "packed" else way)[1]), batch["action_mask"]
        ),
    )


def _logits(head_inputs: _HeadInputs) -> Float[Tensor, "N V"]:
    head, inputs = head_inputs
    return inputs[0] if head is None else head.logits(inputs)


def _states(batch: dict[str, Any]) -> str | None:
    return "states" if "states" in batch else None


def _with_reference(statistics: ActionStatistics, batch: dict[str, Any]) -> ActionStatistics:
    """Adds the reference's log-probabilities if they were computed before training."""
    if "ref_log_prob" not in batch:
        return statistics
    log_prob = batch["ref_log_prob"].to(statistics.log_prob.dtype)
    return statistics._replace(ref_log_prob=torch.where(batch["action_mask"], log_prob, 0.0))


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
