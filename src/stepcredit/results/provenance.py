"""Provenance of results: versions and timings."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stepcredit.version import __version__


@dataclass
class Stopwatch:
    """Timer of phases; timings are stored separately from results, which are thus reproducible."""

    phases: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.phases.append({"phase": name, "seconds": round(time.perf_counter() - start, 2)})


def versions() -> dict[str, str]:
    """Returns the versions that results depend on."""
    import torch
    import transformers

    return {
        "stepcredit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
