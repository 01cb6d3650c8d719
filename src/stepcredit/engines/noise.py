"""Counter-based sampling noise: one uniform number per (seed, prompt, sample, position)."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream_key(seed: int, prompt_id: str, sample: int) -> np.uint64:
    """Returns the 64-bit noise key of a response."""
    digest = hashlib.sha256(f"{seed}\x1f{sample}\x1f{prompt_id}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def uniform(keys: NDArray[np.uint64], position: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns uniform numbers in [0, 1), one per key: SplitMix64 of key + (position + 1)·golden.

    A pure function of key and position, so it depends on neither batch nor order.
    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
    """
    with np.errstate(over="ignore"):
        z = keys + (np.asarray(position).astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    numbers: NDArray[np.float64] = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers
