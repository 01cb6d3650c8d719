"""Encoded episodes in a temporary file, which are read when they are needed.

Memory holds 67 bytes of each, whatever its length: where it is in the file, and what ordering, pairing and counting
need. The file has no name and ends with the process. It lies in the folder of temporary files, which the environment
variable TMPDIR names.
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

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepcredit.episodes.alignment import Trajectory
from stepcredit.errors import InputError
from stepcredit.files import why_not_written

_ABOUT = np.dtype([
    ("start", np.int64), ("length", np.int32), ("prompt_length", np.int32), ("actions", np.int32),
    ("name_length", np.int32), ("has_behavior", np.bool_), ("retokenised", np.bool_), ("cut", np.bool_),
    ("prompt", "S24"), ("outcome", np.float64), ("group_number", np.float64),
])  # fmt: skip
"""What is known of a trajectory without reading it; where it has no group number, that is NaN."""
_ARRAYS = (("step_id", np.int64), ("ids", np.int32), ("reward", np.float32), ("action_mask", np.bool_))
"""The arrays of a trajectory, in the order of the file; log-probabilities and the name of the prompt follow."""
_BEHAVIOR = ("behavior_log_prob", np.float32)


class _File:
    """A file without a name, which is closed when nothing refers to it.

    Args:
        descriptor: an open descriptor of it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, count: int, start: int) -> bytearray:
        """Reads some bytes; processes that share the file do not disturb each other."""
        data = bytearray(count)
        os.preadv(self._descriptor, [data], start)
        return data

    def __del__(self) -> None:
        os.close(self._descriptor)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a process that is being started needs, which cannot open a file by a name."""
        return {"duplicate": reduction.DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._descriptor = state["duplicate"].detach()


class Trajectories(Sequence[Trajectory]):
    """Trajectories in a file, which `stored` makes; an index reads one of them.

    Args:
        file: the file.
        about: a row for each trajectory.
    """

    def __init__(self, file: _File, about: NDArray[Any]) -> None:
        self._file, self._about = file, about

    def __len__(self) -> int:
        return len(self._about)

    def __getitem__(self, index: Any) -> Any:
        """Returns a trajectory, a copy of its own."""
        about = self._about[index]
        length = int(about["length"])
        kinds = (*_ARRAYS, _BEHAVIOR) if about["has_behavior"] else _ARRAYS
        of_arrays = length * sum(np.dtype(kind).itemsize for _, kind in kinds)
        data = self._file.read(of_arrays + int(about["name_length"]), int(about["start"]))
        arrays: dict[str, Any] = {_BEHAVIOR[0]: None}
        at = 0
        for name, kind in kinds:
            arrays[name] = np.frombuffer(data, kind, length, at)
            at += arrays[name].nbytes
        group_number = float(about["group_number"])
        return Trajectory(
            **arrays,
            retokenised=bool(about["retokenised"]),
            cut=bool(about["cut"]),
            prompt_id=data[of_arrays:].decode(),
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
        """The number of each one's prompt, [N]; prompts are numbered in the order in which they first occur."""
        _, first, number = np.unique(self._about["prompt"], return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[number]

    def by_prompt(self) -> Iterator[NDArray[np.int64]]:
        """Yields the indices of the trajectories of each prompt, in their order."""
        prompts = self.prompts
        ordered = np.argsort(prompts, kind="stable")
        yield from np.split(ordered, np.flatnonzero(np.diff(prompts[ordered])) + 1) if len(self) else ()

    def counts(self) -> dict[str, int]:
        """Returns the number of all action tokens, and of trajectories that were encoded from text."""
        return {
            "action_tokens": int(self._about["actions"].sum()),
            "retokenised": int(self._about["retokenised"].sum()),
        }

    def select(self, indices: ArrayLike) -> Trajectories:
        """Returns those at some indices."""
        return Trajectories(self._file, self._about[np.asarray(indices, dtype=np.int64)])

    def with_group_numbers(self, number_of: Callable[[str], float]) -> Trajectories:
        """Returns them with a number of each prompt, given its name."""
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
        with _writing():
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        about = np.fromiter(_write(trajectories, file), _ABOUT)
        return Trajectories(_File(os.dup(file.fileno())), about)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{why_not_written(error)}; TMPDIR names another folder", tempfile.gettempdir()) from error


def _write(trajectories: Iterable[Trajectory], file: FileIO) -> Iterator[tuple[Any, ...]]:
    """Writes trajectories; yields what is known of each."""
    start = 0
    for t in trajectories:
        name, has_behavior = t.prompt_id.encode(), t.behavior_log_prob is not None
        kinds = (*_ARRAYS, _BEHAVIOR) if has_behavior else _ARRAYS
        data = b"".join([*(np.asarray(getattr(t, field), kind).tobytes() for field, kind in kinds), name])
        with _writing():
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        prompt_length = int(t.action_mask.argmax())
        digest = blake2b(name, digest_size=12).hexdigest().encode()
        yield (start, len(t), prompt_length, int(t.action_mask.sum()), len(name), has_behavior, t.retokenised, t.cut,
               digest, t.outcome, math.nan if t.group_number is None else t.group_number)  # fmt: skip
        start += len(data)
