"""Where the turns of the ALFWorld run go: what counts as idle, and what as in vain."""

import pytest

from scripts import loaded
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import append_episodes

TURNS = [
    ("Thought: t\nAction: look", "You see nothing.", "idle"),
    ("Thought: t\nAction: examine desk 1", "Nothing happens.", "idle"),
    ("Thought: t\nAction: go to shelf 9", "Nothing happens.", "go in vain"),
    ("Thought: t\nAction: go to shelf 1", "On the shelf 1, you see a pen 1.", "useful"),
    ("Thought: t\nAction: take mug 1 from shelf 1", "Nothing happens.", "take in vain"),
    ("Thought: t\nAction: take pen 1 from shelf 1", "You pick up the pen 1.", "useful"),
    ("Thought: t\nAction: move pen 1 to bed 1", "Nothing happens.", "other in vain"),
    ("a mug, I think", "Nothing happens.", "other in vain"),
    ("Thought: t\nAction: move pen 1 to shelf 1", None, "useful"),
]


@pytest.fixture(scope="module")
def turns():
    with loaded("alfworld/turns.py") as module:
        yield module


@pytest.fixture
def episode():
    said = [{"role": "assistant", "content": reply} for reply, _, _ in TURNS]
    heard = [{"role": "user", "content": answer} for _, answer, _ in TURNS if answer is not None]
    completion = [m for pair in zip(said, heard, strict=False) for m in pair] + said[-1:]
    return Episode(prompt=[{"role": "user", "content": "A room."}], completion=completion, reward=1.0, prompt_id="p")


def test_every_turn_is_of_one_kind(turns, episode):
    assert list(turns.kinds(episode)) == [kind for _, _, kind in TURNS]


def test_shares_are_of_all_turns_of_all_episodes(turns, episode, tmp_path):
    idle = Episode(
        prompt=episode.prompt, completion=[{"role": "assistant", "content": TURNS[0][0]}], reward=0.0, prompt_id="q"
    )
    append_episodes(tmp_path / "one", [episode])
    append_episodes(tmp_path / "two", [idle])
    assert turns.shares(tmp_path) == {"idle": 0.3, "go in vain": 0.1, "take in vain": 0.1, "other in vain": 0.2}
