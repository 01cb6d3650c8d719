"""What frozen weights compute on the training data, computed once before training and kept on disk.

Offline data is fixed, so whatever is not trained gives the same numbers in every epoch, and in every run that trains
from the same models: the hidden states that enter the first trained layer, and the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import send_to_device
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from stepcredit.episodes.alignment import Trajectory, at_states, collate
from stepcredit.episodes.prefixes import collate_shared, prefix_length
from stepcredit.errors import InputError
from stepcredit.files import locked
from stepcredit.models.activation_store import ActivationStore, fingerprint, key_of, padded
from stepcredit.models.actor_critic import POLICY, VALUE, ActorCritic
from stepcredit.models.bodies.passes import Sequences, base_of, run, sequences, shares_prefixes, split
from stepcredit.models.heads.action_statistics import at_actions
from stepcredit.models.heads.fused_head import head_statistics
from stepcredit.models.heads.linear_heads import linear_head
from stepcredit.models.heads.value_heads import TrunkValue
from stepcredit.progress import track
from stepcredit.training.items import Item
from stepcredit.training.offline_config import OfflineConfig

STATES, VALUE_STATES, REF_STATES, REF_LOG_PROB = "states", "value_states", "ref_states", "ref_log_prob"
"""Fields of a batch that are computed before training (`ActorCritic.forward`)."""
_WAIT = 7 * 24 * 3600.0
"""Seconds to wait for another run that computes the same."""
_TOKENS = 4096
"""Tokens of a forward pass."""


class _Rows(NamedTuple):
    """Numbers at the positions of the prefixes [P, L, W], if any, and of the rows [B, T, W]."""

    prefix: Float[Tensor, "P L W"] | None
    rows: Float[Tensor, "B T W"]


class Precomputed:
    """The precomputed fields of all trajectories of a run.

    Args:
        actor_critic: the models before training.
        folder: where the fields are kept, a folder per field and model.
        dtype: the type in which hidden states are kept.
        needs_reference: whether to compute the reference.
        needs_kl: whether the exact KL needs its last hidden states; otherwise its log-probabilities are kept.
        autocast: context in which models compute.
    """

    def __init__(
        self,
        actor_critic: ActorCritic,
        folder: Path,
        dtype: torch.dtype,
        needs_reference: bool,
        needs_kl: bool,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.models, self.folder, self.dtype, self._autocast = actor_critic, folder, dtype, autocast
        self._parts: dict[str, Any] = {}
        self._weights: dict[str, str] = {}
        self._stores: dict[str, ActivationStore] = {}
        self._errors: list[float] = []
        self._released = False
        if actor_critic.train_layers is not None:
            for field, model in ((STATES, POLICY), (VALUE_STATES, VALUE)):
                part = actor_critic.parts().get(model)
                if part is not None and not isinstance(part, TrunkValue):
                    self._parts[field] = split(base_of(part), actor_critic.train_layers)[0]
                    self._weights[field] = fingerprint(self._parts[field])
            if self._weights.get(VALUE_STATES) == self._weights[STATES]:
                del self._parts[VALUE_STATES], self._weights[VALUE_STATES]
        self._reference = (REF_STATES if needs_kl else REF_LOG_PROB) if needs_reference else None
        if self._reference is not None:
            with actor_critic.reference_model() as reference:
                self._weights[self._reference] = fingerprint(reference)

    @classmethod
    def of_run(cls, models: ActorCritic, args: OfflineConfig, **given: Any) -> Precomputed:
        """Returns the precomputed fields of a run, empty; hidden states in the type of the computation by default."""
        folder = Path(args.activation_cache or Path(args.output_dir) / "activations")
        computed = torch.bfloat16 if args.bf16 else models.policy.dtype
        dtype = computed if args.activation_dtype is None else getattr(torch, args.activation_dtype)
        return cls(models, folder, dtype, **given)

    # ---- before training --------------------------------------------------------------------------

    def compute(self, datasets: Iterable[Sequence[Item]]) -> None:
        """Computes what is missing, and shows progress; another run that computes the same is waited for.

        Args:
            datasets: the items of each data set.

        Raises:
            InputError: a folder is of other weights, or cannot be written; or trajectories are missing after the
                policy, which was the reference, has been trained.
        """
        with locked(self.folder, "stepcredit train (precomputing)", _WAIT):
            for field, weights in self._weights.items():
                self._stores[field] = self._store(field, weights)
            for items in datasets:
                chunks = chunks_of(items, self._has)
                if chunks and self._reference is not None and self._released:
                    raise InputError("has episodes for which the reference was not computed before training; give it "
                                     "as eval_dataset before training", "eval_dataset")  # fmt: skip
                for chunk in track(chunks, "computing frozen layers", len(chunks), "batches"):
                    self._compute([items[item][row] for item, row in chunk])
        if self._reference is not None and not self._released:
            self.models.release_reference()
            self._released = True

    def describe(self) -> str:
        """Describes what was computed, for the log."""
        sizes = ", ".join(f"{field} {store.gigabytes:.2f} GB" for field, store in self._stores.items())
        error = f"; kept as {self.dtype}, relative error {max(self._errors):.1e}" if self._errors else ""
        return f"computed before training, in {self.folder}: {sizes}{error}"

    def _store(self, field: str, weights: str) -> ActivationStore:
        is_log_prob = field == REF_LOG_PROB
        width = 1 if is_log_prob else self.models.config.get_text_config().hidden_size
        dtype = torch.promote_types(self.dtype, torch.float32) if is_log_prob else self.dtype
        name = f"{field.removeprefix('value_')}-{str(dtype).removeprefix('torch.')}-{weights[:16]}"
        return ActivationStore(self.folder / name, weights, width, dtype)

    def _has(self, key: str) -> bool:
        return all(key in store for store in self._stores.values())

    @torch.no_grad()
    def _compute(self, trajectories: Sequence[Trajectory]) -> None:
        shares = shares_prefixes(base_of(self.models.policy))
        batch = collate_shared(trajectories, 0) if shares else collate(trajectories, 0).to_dict()
        batch = send_to_device(batch, self.models.policy.device)
        inputs = sequences(batch)
        computed: dict[str, _Rows] = {}
        with self._autocast():
            for field, part in self._parts.items():
                computed[field] = _run(part, inputs)
            if self._reference is not None:
                computed[self._reference] = self._reference_rows(batch, inputs, computed.get(STATES))
        for field, rows in computed.items():
            store = self._stores[field]
            store.append(_named(trajectories, batch, rows, over_columns=field == self._reference))
            if store.dtype.itemsize < rows.rows.dtype.itemsize:
                self._errors.append(float((rows.rows - rows.rows.to(store.dtype)).norm() / rows.rows.norm()))

    def _reference_rows(self, batch: dict[str, Any], inputs: Sequences, states: _Rows | None) -> _Rows:
        """Computes the last hidden states, or log-probabilities, of the reference, [B, A, W] over action columns."""
        with self.models.reference_model() as reference:
            if states is not None and reference is self.models.policy:
                last = self.models.bodies[POLICY]
                rows = _run(last, inputs._replace(tokens=states.rows, prefix=states.prefix)).rows
            else:
                rows = _run(base_of(reference), inputs).rows
            if self._reference == REF_STATES:
                return _Rows(None, at_states(rows))
            mask = batch["action_mask"]
            head = linear_head(reference, at_actions(at_states(rows), mask))
            assert head is not None
            log_prob = head_statistics(*head, batch["action"][mask]).log_prob
        return _Rows(None, log_prob.new_zeros(mask.shape).masked_scatter(mask, log_prob)[..., None])

    # ---- during training --------------------------------------------------------------------------

    def fields(self, trajectories: Sequence[Trajectory], shared: dict[str, Any] | None) -> dict[str, Any]:
        """Returns the precomputed fields of a batch.

        Args:
            trajectories: its rows.
            shared: the batch if its rows share prefixes, whose hidden states are added to `shared["prefix"]`; None
                for whole rows.
        """
        fields: dict[str, Any] = {}
        for field, store in self._stores.items():
            rows = [store.rows(_key(t)) for t in trajectories]
            if field in self._parts:
                prefixes = [store.rows(key_of(_prefix(t))) for t in trajectories if prefix_length(t)]
                before = iter(prefixes)
                whole = [next(before) if prefix_length(t) else rows[0][:0] for t in trajectories]
                if shared is None:
                    rows = [torch.cat(pair) for pair in zip(whole, rows, strict=True)]
                else:
                    first = dict(zip(reversed(shared["prefix_row"].tolist()), reversed(whole), strict=True))
                    shared["prefix"][field] = padded([first[k] for k in range(len(first))])
            elif shared is None:  # over the action columns of whole rows
                rows = [torch.nn.functional.pad(x, (0, 0, prefix_length(t), 0))
                        for x, t in zip(rows, trajectories, strict=True)]  # fmt: skip
            fields[field] = padded(rows)[..., 0] if field == REF_LOG_PROB else padded(rows)
        return fields


def _key(trajectory: Trajectory) -> str:
    return key_of(trajectory.ids, prefix_length(trajectory))


def _prefix(trajectory: Trajectory) -> NDArray[np.int32]:
    return trajectory.ids[: prefix_length(trajectory)]


def chunks_of(items: Sequence[Item], has: Callable[[str], bool] = lambda key: False) -> list[list[tuple[int, int]]]:
    """Returns the places (item, row) of distinct trajectories in batches, those of a prompt together, of at most
    `_TOKENS` tokens, or one longer trajectory.

    Args:
        items: the items.
        has: whether a trajectory, by its key, is computed already; it is left out.
    """
    missing: dict[str, tuple[int, str, int, tuple[int, int]]] = {}
    for k, item in enumerate(items):
        for row, t in enumerate(item):
            if (key := _key(t)) not in missing and not has(key):
                missing[key] = (prefix_length(t), key_of(_prefix(t)), len(t), (k, row))
    chunks: list[list[tuple[int, int]]] = []
    tokens, last = 0, ""
    for before, prefix, length, place in sorted(missing.values()):
        more = length - (before if prefix == last else 0)
        if not chunks or tokens + more > _TOKENS:
            chunks.append([])
            tokens, more = 0, length
        chunks[-1].append(place)
        tokens, last = tokens + more, prefix
    return chunks


def _named(
    trajectories: Sequence[Trajectory], batch: dict[str, Any], computed: _Rows, over_columns: bool
) -> Iterator[tuple[str, Tensor]]:
    """Yields the rows of each trajectory after its prefix, and those of the prefix, with their keys."""
    for k, trajectory in enumerate(trajectories):
        start = prefix_length(trajectory)
        shift = 0 if "prefix" in batch else start
        yield _key(trajectory), computed.rows[k, shift : shift + len(trajectory) - start - over_columns]
        if start and not over_columns:
            whole = computed.rows[k] if computed.prefix is None else computed.prefix[batch["prefix_row"][k]]
            yield key_of(trajectory.ids[:start]), whole[:start]


def _run(body: Any, inputs: Sequences) -> _Rows:
    return _Rows(*run(body, inputs))
