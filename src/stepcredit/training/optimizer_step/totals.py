"""Totals of metric sums since the last log, over micro-batches and processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from stepcredit.objectives.sums import Sums


class Totals:
    """Accumulates `Sums` by name, on the device until they are read."""

    def __init__(self) -> None:
        self._formulas: dict[str, Callable[..., float]] = {}
        self._parts: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, metrics: Mapping[str, Sums], weight: float = 1.0) -> None:
        """Adds the sums of a micro-batch, multiplied by its weight (`batching.weight_of`)."""
        for name, sums in metrics.items():
            parts = torch.stack(sums.parts) * weight
            self._formulas[name] = sums.formula
            self._parts[name] = self._parts[name] + parts if name in self._parts else parts

    def state(self) -> dict[str, Tensor]:
        """Returns the sums by name, for a checkpoint."""
        return dict(self._parts)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Adds the sums of a checkpoint; the next micro-batch says how they are read."""
        for name, parts in state.items():
            self._parts[name] = self._parts[name] + parts if name in self._parts else parts

    def numbers(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Returns the metrics by name, without undefined ones (NaN); one transfer from the device.

        Args:
            over_processes: sums a tensor over processes, all of which have the same names in the same order.
        """
        if not self._parts:
            return {}
        totals = iter(over_processes(torch.cat(list(self._parts.values()))).tolist())
        numbers = {
            name: self._formulas[name](*(next(totals) for _ in range(len(parts))))
            for name, parts in self._parts.items()
        }
        return {name: number for name, number in numbers.items() if number == number}
