"""Sample numbers of each prompt and their positions, in about ten bytes per row."""

from __future__ import annotations

from array import array

_PLACE_BITS = 40  # of a line's number; what is above them is the number of the file


class SampleNumbers:
    """Numbers the samples of each prompt in order of arrival and stores their positions.

    Samples in order, which is the common case, take one array entry each.
    """

    def __init__(self) -> None:
        self._in_order: dict[str, array[int]] = {}  # prompt → the places of its samples 0, 1, 2, …
        self._others: dict[tuple[str, int], int] = {}
        self._next: dict[str, int] = {}  # for prompts with others
        self._files: dict[str, int] = {}

    def following(self, prompt_id: str) -> int:
        """The number after the highest one of the prompt."""
        return max(self._next.get(prompt_id, 0), len(self._in_order.get(prompt_id, ())))

    def add(self, prompt_id: str, sample: int, where: str) -> str | None:
        """Adds a sample, or returns the position of an existing one with the same number.

        Args:
            prompt_id, sample: prompt and number of the sample.
            where: a position that ends in a number: `logs.jsonl:12`, `logs.parquet: row 3`.
        """
        places = self._in_order.setdefault(prompt_id, array("q"))
        earlier = places[sample] if sample < len(places) else self._others.get((prompt_id, sample))
        if earlier is not None:
            file = list(self._files)[earlier >> _PLACE_BITS]
            return f"{file}{earlier & (1 << _PLACE_BITS) - 1}"
        if sample == len(places):
            places.append(self._place(where))
        else:
            self._others[prompt_id, sample] = self._place(where)
            self._next[prompt_id] = max(self.following(prompt_id), sample + 1)
        return None

    def _place(self, where: str) -> int:
        file = where.rstrip("0123456789")
        number = int(where[len(file) :] or 0)
        return self._files.setdefault(file, len(self._files)) << _PLACE_BITS | number
