"""Trajectories in a temporary file."""

import errno
import gc
import os
import tempfile
from io import FileIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from stepcredit import InputError
from stepcredit.episodes.alignment import Trajectory
from stepcredit.episodes.trajectories import ABOUT, stored

FIELDS = Trajectory.__dataclass_fields__


def made(prompt, actions, name="p", outcome=1.0, **given):
    """A trajectory of so many tokens before and after its first action."""
    mask = np.arange(prompt + actions) >= prompt
    ids = np.arange(prompt + actions, dtype=np.int32) + 7 * prompt
    step_id = np.where(mask, np.arange(prompt + actions) - prompt, -1)
    reward = np.where(mask, 0.1, 0).astype(np.float32)
    about = {"behavior_log_prob": None, "retokenised": False, "prompt_id": name, "outcome": outcome, **given}
    return Trajectory(ids, mask, step_id, reward, **about)


def same(a, b):
    """Whether two trajectories have the same fields of the same types."""
    for field in FIELDS:
        x, y = getattr(a, field), getattr(b, field)
        if type(x) is not type(y):
            return False
        if isinstance(x, np.ndarray) and (x.dtype != y.dtype or not x.flags.aligned):
            return False
        if not np.array_equal(x, y, equal_nan=isinstance(x, np.ndarray)):
            return False
    return True


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@st.composite
def trajectories(draw):
    prompt, actions = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    length = prompt + actions
    behavior = draw(
        st.none() | st.lists(st.floats(-9, 0, width=32) | st.just(np.nan), min_size=length, max_size=length)
    )
    return made(
        prompt, actions, draw(texts), draw(st.floats(-1, 1)),
        behavior_log_prob=None if behavior is None else np.array(behavior, dtype=np.float32),
        retokenised=draw(st.booleans()), cut=draw(st.booleans()), group_number=draw(st.none() | st.floats(-5, 5)),
    )  # fmt: skip


@given(st.lists(trajectories(), max_size=6), st.data())
def test_what_is_read_is_what_was_written(rows, data):
    found = stored(iter(rows))
    assert len(found) == len(rows)
    assert all(map(same, found, rows))
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=4)) if rows else []
    some = found.select(np.array(indices, dtype=np.int64))
    assert all(same(some[k], rows[index]) for k, index in enumerate(indices))
    assert some.counts() == {
        "action_tokens": sum(int(rows[k].action_mask.sum()) for k in indices),
        "retokenised": sum(rows[k].retokenised for k in indices),
    }
    arrays = (t.ids.nbytes + t.step_id.nbytes + t.reward.nbytes + t.action_mask.nbytes for t in rows)
    others = (0 if t.behavior_log_prob is None else t.behavior_log_prob.nbytes for t in rows)
    names = (len(t.prompt_id.encode()) for t in rows)
    assert some.nbytes == found.nbytes == sum(arrays) + sum(others) + sum(names)
    assert some.lengths.tolist() == [len(rows[k]) for k in indices]
    assert some.prompt_lengths.tolist() == [int(rows[k].action_mask.argmax()) for k in indices]
    assert some.outcomes.tolist() == [rows[k].outcome for k in indices]


def test_an_index_beyond_the_end_is_none():
    found = stored([made(1, 2), made(2, 3)])
    assert len(found[-1]) == 5
    with pytest.raises(IndexError):
        found[2]


def test_prompts_are_numbered_as_they_come():
    found = stored(made(1, k + 1, name) for k, name in enumerate("bcabac"))
    assert found.prompts.tolist() == [0, 1, 2, 0, 2, 1]
    assert [indices.tolist() for indices in found.by_prompt()] == [[0, 3], [1, 5], [2, 4]]
    assert list(stored([]).by_prompt()) == []
    assert found.select(np.array([4, 2, 1])).prompts.tolist() == [0, 0, 1]
    assert found.select(found.lengths < 4).prompts.tolist() == [0, 1]


def test_any_prompt_id_can_be_kept():
    """JSON may hold half a pair of surrogates."""
    assert stored([made(1, 2, "a\ud800")])[0].prompt_id == "a\ud800"


def test_memory_of_each_is_what_the_docs_say():
    assert ABOUT.itemsize == 56


def test_a_number_of_each_prompt():
    found = stored(made(1, k + 1, name) for k, name in enumerate("bab"))
    numbered = found.with_group_numbers(lambda prompt: {"a": 1.5, "b": -2.0}[prompt])
    assert [t.group_number for t in numbered] == [-2.0, 1.5, -2.0]
    assert [t.group_number for t in found] == [None] * 3


def test_every_reading_is_a_copy():
    found = stored([made(1, 2)])
    torch.from_numpy(found[0].reward).fill_(9)
    assert same(found[0], made(1, 2))


def test_the_file_has_no_name_and_is_closed_with_the_last_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    found = stored([made(1, 2), made(2, 3)])
    assert list(tmp_path.iterdir()) == []
    some = found.select(np.array([1]))
    del found
    gc.collect()
    assert len(some[0]) == 5
    assert len(set(os.listdir("/proc/self/fd")) - before) == 1
    del some
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
    class Full(FileIO):
        """Takes a few bytes, and then no more."""

        taken = 0

        def write(self, data):
            if self.taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.taken = min(10, len(data))
            return self.taken

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: Full(os.devnull, "w"))
    with pytest.raises(InputError, match=r"No space left.*make space.*TMPDIR") as refused:
        stored([made(1, 2)])
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_folder_of_temporary_files_is_one_line(monkeypatch):
    def none(**given):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    with pytest.raises(InputError, match=r"No usable temporary directory found.*TMPDIR"):
        stored([made(1, 2)])


def test_what_comes_in_pieces_is_read_whole(monkeypatch):
    """As over a network, where a signal comes between."""
    found, at_once = stored([made(1, 2), made(2, 3)]), os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, start: at_once(file, [buffers[0][:5]], start))
    assert same(found[1], made(2, 3))


def test_a_file_that_was_cut_is_no_data():
    found = stored([made(1, 2), made(2, 3)])
    os.ftruncate(found._file._descriptor, 3)
    with pytest.raises(OSError, match="shorter than it was written"):
        found[1]


def test_errors_of_what_is_written_stay_what_they_are():
    def rows():
        yield made(1, 2)
        raise FileNotFoundError("shard")

    with pytest.raises(FileNotFoundError, match="shard"):
        stored(rows())


def first(batch):
    return batch[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_workers_of_a_loader_read_it_while_others_do(start):
    rows = [made(k % 5, k % 7 + 1, behavior_log_prob=None if k % 2 else np.zeros(k % 5 + k % 7 + 1, dtype=np.float32))
            for k in range(60)]  # fmt: skip
    found = stored(rows)
    loader = DataLoader(found, batch_size=1, collate_fn=first, num_workers=2, multiprocessing_context=start)
    for k, read in enumerate(loader):
        assert same(read, rows[k])
        assert same(found[59 - k], rows[59 - k])
    assert os.lseek(found._file._descriptor, 0, os.SEEK_CUR) == found.nbytes  # where writing ended: no reading moves it
