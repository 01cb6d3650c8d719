"""The bins of a value model that classifies, saved in its config for everything that reads V.

A value model has one label, and V is its output; or one label for each bin, and V is the mean of the bins under the
softmax of its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from stepcredit.errors import InputError, quoted

_KEY = "value_bins"
_REGRESSION, _CLASSIFICATION = "regression", "single_label_classification"


def set_value_bins(config: Any, bins: Sequence[float] | None) -> None:
    """Writes into the config of a value model what its outputs are; also for servers, which then return V without a
    sigmoid, or a probability for each bin, whose label has its value.

    Args:
        config: the config of a value model.
        bins: the bins, increasing; None: the model gives V.
    """
    config.num_labels = 1 if bins is None else len(bins)
    config.problem_type = _REGRESSION if bins is None else _CLASSIFICATION
    if bins is None:
        if hasattr(config, _KEY):
            delattr(config, _KEY)
        return
    config.id2label = {k: f"V={number:.6g}" for k, number in enumerate(bins)}
    config.label2id = {label: k for k, label in config.id2label.items()}
    setattr(config, _KEY, list(bins))


def value_bins(config: Any) -> list[float] | None:
    """Returns the bins of a value model; None where it gives V."""
    return getattr(config, _KEY, None)


def check_value_bins(config: Any, name: str) -> None:
    """Checks that a value model has one label, or one for each of its bins.

    Raises:
        InputError: it has not.
    """
    bins, labels = getattr(config, _KEY, None), config.num_labels
    if bins is None:
        if labels != 1:
            raise InputError(f"a value model has one label, this one has {labels} and no {_KEY} in its config", name)
        return
    numbers = isinstance(bins, list) and all(type(x) in (int, float) and math.isfinite(x) for x in bins)
    if not numbers or len(bins) < 2 or any(a >= b for a, b in pairwise(bins)):
        raise InputError(f"{_KEY} in its config.json must be two or more increasing numbers, not {quoted(bins)}", name)
    if len(bins) != labels:
        raise InputError(f"its config.json has {len(bins)} {_KEY} for {labels} labels", name)


def check_same_bins(config: Any, bins: Sequence[float] | None) -> None:
    """Checks that a given value model has the bins that are to be trained.

    Raises:
        InputError: it has others, or none, or some where V is fitted by squares.
    """
    found = value_bins(config)
    if found == (None if bins is None else list(bins)):
        return
    of_model = "gives V itself" if found is None else f"has {len(found)} bins from {found[0]:g} to {found[-1]:g}"
    way = (
        f"--value_loss categorical --value_bins {len(found)} --value_range {found[0]:g} {found[-1]:g}"
        if found is not None
        else "--value_loss squared"
    )
    raise InputError(f"{of_model}, unlike this run; choose {way}, or leave it out", "value_model")
