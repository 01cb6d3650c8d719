"""Sample numbers of each prompt and their positions, in 24 to 36 bytes per row and as many per prompt.

Prompts and samples are kept as hashes of 64 bits. That two of n rows share one has the probability n² / 2⁶⁵, which is
0.0003 for a hundred million rows; the later one is then taken for a sample that is there twice.
"""

from __future__ import annotations

from array import array

_PLACE_BITS = 40  # of a line's number; what is above them is the number of the file
_HASH = (1 << 64) - 1


class _Numbers:
    """Hash table from hashes to numbers above 0, in two arrays of 64 bits with open addressing."""

    def __init__(self) -> None:
        self._keys, self._numbers = _zeros(1024), _zeros(1024)
        self._used = 0

    def get(self, key: int) -> int:
        """The number of a key; 0 if it has none."""
        return self._numbers[self._slot(key)]

    def raised(self, key: int, number: int) -> int:
        """Sets the number of a key unless it has a higher one; returns the one before, 0 if it had none."""
        slot = self._slot(key)
        before = self._numbers[slot]
        if number > before:
            self._numbers[slot] = number
        if not before:
            self._keys[slot] = key
            self._used += 1
            if 3 * self._used > 2 * len(self._keys):
                self._grow()
        return before

    def _slot(self, key: int) -> int:
        keys = self._keys
        slot = key % len(keys)
        while keys[slot] and keys[slot] != key:
            slot = (slot + 1) % len(keys)
        return slot

    def _grow(self) -> None:
        keys, numbers = self._keys, self._numbers
        size = 3 * len(keys) // 2
        self._keys, self._numbers = _zeros(size), _zeros(size)
        for key, number in zip(keys, numbers, strict=True):
            if key:
                slot = self._slot(key)
                self._keys[slot], self._numbers[slot] = key, number


def _zeros(length: int) -> array[int]:
    return array("Q", bytes(8 * length))


class SampleNumbers:
    """Numbers the samples of each prompt in order of arrival and stores their positions."""

    def __init__(self) -> None:
        self._places = _Numbers()  # by prompt and sample
        self._following = _Numbers()  # by prompt
        self._files: dict[str, int] = {}

    def following(self, prompt_id: str) -> int:
        """The number after the highest one of the prompt."""
        return self._following.get(_key(prompt_id))

    def add(self, prompt_id: str, sample: int, where: str) -> str | None:
        """Adds a sample, or returns the position of an existing one with the same number.

        Args:
            prompt_id, sample: prompt and number of the sample.
            where: a position that ends in a number: `logs.jsonl:12`, `logs.parquet: row 3`.
        """
        key, place = _key((prompt_id, sample)), self._place(where)
        earlier = self._places.get(key) - 1
        if earlier >= 0:
            file = list(self._files)[earlier >> _PLACE_BITS]
            return f"{file}{earlier & (1 << _PLACE_BITS) - 1}"
        self._places.raised(key, place + 1)
        self._following.raised(_key(prompt_id), sample + 1)
        return None

    def _place(self, where: str) -> int:
        file = where.rstrip("0123456789")
        number = int(where[len(file) :] or 0)
        return self._files.setdefault(file, len(self._files)) << _PLACE_BITS | number


def _key(named: str | tuple[str, int]) -> int:
    return (hash(named) & _HASH) or 1
