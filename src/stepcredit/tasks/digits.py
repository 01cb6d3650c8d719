"""Problems with groups of digits, sampled from a seed; the prompt determines the split."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from stepcredit.errors import InputError
from stepcredit.tasks.task import Problem

SPLITS = {"train": (0, 80), "validation": (80, 90), "test": (90, 100)}


def digit_problems(
    openings: Sequence[str],
    groups: int,
    digits: int,
    answer: Callable[[str], str],
    split: str,
    count: int | None,
    seed: int,
) -> list[Problem]:
    """Returns `count` different problems of a split (default 1,000): "word 7 0 4 | 3 3 8\\n".

    Raises:
        InputError: unknown split, or more problems than the split has.
    """
    if split not in SPLITS:
        raise InputError(f"no split {split!r}; there is {', '.join(SPLITS)}", "split")
    rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
    low, high = SPLITS[split]
    count = 1000 if count is None else count
    if count > 10 ** (groups * digits) * (high - low) // 200:
        raise InputError(f"{count} different problems are more than half of all there are", "limit")
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        sampled = rng.integers(10, size=(groups, digits)).tolist()
        opening = openings[int(rng.integers(len(openings)))] if len(openings) > 1 else openings[0]
        prompt = opening + " |".join("".join(f" {d}" for d in group) for group in sampled) + "\n"
        if low <= zlib.crc32(prompt.encode()) % 100 < high:
            problems[prompt] = Problem(prompt, prompt, answer(prompt))
    return list(problems.values())


def groups_of(prompt: str) -> list[list[int]]:
    """The groups of digits of a prompt."""
    return [[int(d) for d in re.findall(r"\d", group)] for group in prompt.split("|")]
