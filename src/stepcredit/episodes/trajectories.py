"""Encoded episodes in a temporary file, which are read when they are needed.

Memory holds 56 bytes of each, whatever its length: where it is in the file, and what ordering, pairing and counting
need. The file has no name and is deleted with the last object that reads it, at the latest when the process ends. It
lies in the folder of temporary files, which the environment variable TMPDIR names.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from io import FileIO
from multiprocessing import reduction
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from stepcredit.episodes.alignment import Trajectory
from stepcredit.errors import InputError
from stepcredit.files import why_not_written

ABOUT = np.dtype([
    ("start", np.int64), ("outcome", np.float64), ("group_number", np.float64), ("prompt", "S12"),
    ("length", np.int32), ("prompt_length", np.int32), ("actions", np.int32), ("name_length", np.int32),
    ("has_behavior", np.bool_), ("retokenised", np.bool_), ("cut", np.bool_),
], align=True)  # fmt: skip
"""What is known of a trajectory without reading it; where it has no group number, that is NaN."""
_ARRAYS: dict[str, np.dtype[Any]] = {
    "step_id": np.dtype(np.int64),
    "ids": np.dtype(np.int32),
    "reward": np.dtype(np.float32),
}
_BEHAVIOR: dict[str, np.dtype[Any]] = {"behavior_log_prob": np.dtype(np.float32)}
_MASK: dict[str, np.dtype[Any]] = {"action_mask": np.dtype(np.bool_)}
_KINDS = {False: {**_ARRAYS, **_MASK}, True: {**_ARRAYS, **_BEHAVIOR, **_MASK}}
"""The arrays of a trajectory without and with log-probabilities, in the order of the file: wide numbers first, so that
all are aligned. The name of the prompt follows."""


class Trajectories(Sequence[Trajectory]):
    """Trajectories in a file, which `stored` makes; an index reads one of them, a copy of its own.

    Args:
        file: the file.
        about: a row for each trajectory, [N] of `ABOUT`; made read-only.
    """

    def __init__(self, file: _File, about: NDArray[Any]) -> None:
        self._file, self._about = file, about
        about.flags.writeable = False

    def __len__(self) -> int:
        return len(self._about)

    def __getitem__(self, index: int | np.int64) -> Trajectory:  # type: ignore[override]
        about = self._about[index]
        length, kinds = int(about["length"]), _KINDS[bool(about["has_behavior"])]
        of_arrays = length * sum(kind.itemsize for kind in kinds.values())
        data = self._file.read(of_arrays + int(about["name_length"]), int(about["start"]))
        arrays: dict[str, Any] = {"behavior_log_prob": None}
        at = 0
        for name, kind in kinds.items():
            arrays[name] = np.frombuffer(data, kind, length, at)
            at += arrays[name].nbytes
        group_number = float(about["group_number"])
        return Trajectory(
            **arrays,
            retokenised=bool(about["retokenised"]),
            cut=bool(about["cut"]),
            prompt_id=data[of_arrays:].decode(errors="surrogatepass"),
            outcome=float(about["outcome"]),
            group_number=None if math.isnan(group_number) else group_number,
        )

    @property
    def lengths(self) -> NDArray[np.int32]:
        """The tokens of each, [N]."""
        return self._about["length"]

    @property
    def prompt_lengths(self) -> NDArray[np.int32]:
        """The tokens of each before its first action, [N]."""
        return self._about["prompt_length"]

    @property
    def outcomes(self) -> NDArray[np.float64]:
        """The outcome of each, [N]."""
        return self._about["outcome"]

    @property
    def prompts(self) -> NDArray[np.int64]:
        """The number of each one's prompt, [N]; prompts are numbered from 0 in the order in which they first occur."""
        _, first, number = np.unique(self._about["prompt"], return_index=True, return_inverse=True)
        rank = np.empty_like(first)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[number]

    @property
    def nbytes(self) -> int:
        """The bytes of the file, with the trajectories that were not selected."""
        return self._file.size

    def by_prompt(self) -> Iterator[NDArray[np.int64]]:
        """Yields the indices of the trajectories of each prompt, in their order."""
        prompts = self.prompts
        ordered = np.argsort(prompts, kind="stable")
        start = 0
        for end in np.cumsum(np.bincount(prompts)):
            yield ordered[start:end]
            start = end

    def counts(self) -> dict[str, int]:
        """Returns the number of all action tokens, and of trajectories that were encoded from text."""
        return {
            "action_tokens": int(self._about["actions"].sum()),
            "retokenised": int(self._about["retokenised"].sum()),
        }

    def select(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Trajectories:
        """Returns those at some indices, or where a mask is true."""
        return Trajectories(self._file, self._about[chosen])

    def with_group_numbers(self, number_of: Callable[[str], float]) -> Trajectories:
        """Returns them with `number_of(t.prompt_id)` as the group number of each."""
        about = self._about.copy()
        for indices in self.by_prompt():
            about["group_number"][indices] = number_of(self[indices[0]].prompt_id)
        return Trajectories(self._file, about)


def stored(trajectories: Iterable[Trajectory]) -> Trajectories:
    """Writes trajectories into a temporary file.

    Raises:
        InputError: it cannot be written.
    """
    with ExitStack() as stack:
        with _write_errors():
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        about = np.fromiter(_write(trajectories, file), ABOUT)
        return Trajectories(_File(os.dup(file.fileno())), about)


def _write(trajectories: Iterable[Trajectory], file: FileIO) -> Iterator[tuple[Any, ...]]:
    """Writes trajectories; yields what is known of each."""
    start = 0
    for t in trajectories:
        name, has_behavior = t.prompt_id.encode(errors="surrogatepass"), t.behavior_log_prob is not None
        arrays = (np.asarray(getattr(t, field), kind).tobytes() for field, kind in _KINDS[has_behavior].items())
        data = b"".join([*arrays, name])
        with _write_errors():
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        yield (
            start, t.outcome, math.nan if t.group_number is None else t.group_number,
            blake2b(name, digest_size=12).digest(), len(t), t.prompt_length, int(t.action_mask.sum()),
            len(name), has_behavior, t.retokenised, t.cut,
        )  # fmt: skip
        start += len(data)


@contextmanager
def _write_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or os.environ.get("TMPDIR", "the folder of temporary files")
        raise InputError(f"{why_not_written(error)}; TMPDIR may name another folder", folder) from error


class _File:
    """A file without a name, which is closed when nothing refers to it.

    Args:
        descriptor: an open descriptor of it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        finalize(self, os.close, descriptor)

    def read(self, count: int, start: int) -> bytearray:
        """Reads some bytes; processes that share the file do not disturb each other.

        Raises:
            OSError: there are fewer.
        """
        data = bytearray(count)
        done = 0
        while done < count:
            new = os.preadv(self._descriptor, [memoryview(data)[done:]], start + done)
            if not new:
                raise OSError("the temporary file of the episodes is shorter than it was written")
            done += new
        return data

    @property
    def size(self) -> int:
        """Its bytes."""
        return os.fstat(self._descriptor).st_size

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns the descriptor for a process that is being started; it can be received once."""
        return _received, (reduction.DupFd(self._descriptor),)


def _received(duplicate: Any) -> _File:
    return _File(duplicate.detach())
