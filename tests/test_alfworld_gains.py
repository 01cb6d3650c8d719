"""What choosing by V is worth: episodes of two ways on the same games, counted by hand."""

import json
import sys

import pytest

from scripts import loaded
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.store import append_episodes

GAMES, ROOM, SAID = "abcd", [{"role": "user", "content": "A room."}], [{"role": "assistant", "content": "look"}]
PLAYED = {
    (0, "sample1"): "1000", (0, "best-of2"): "1110", (0, "random2"): "1000",
    (1, "sample1"): "0000", (1, "best-of2"): "1110", (1, "random2"): "0100",
}  # fmt: skip
"""(seed, way) → who won the four games."""


@pytest.fixture
def gains():
    with loaded("alfworld/gains.py") as module:
        yield module


@pytest.fixture
def out(tmp_path):
    for (seed, way), results in PLAYED.items():
        folder = tmp_path / f"seed{seed}" / "wide-at-0.3" / f"evaluate-sft-valid_unseen-{way}" / "responses" / "r"
        append_episodes(
            folder,
            [Episode(prompt=ROOM, completion=SAID, reward=float(r), prompt_id=g)
             for g, r in zip(GAMES, results, strict=True)],
        )  # fmt: skip
    return tmp_path


def test_a_game_that_the_turn_limit_ended_is_not_won(gains, tmp_path):
    folder = tmp_path / "seed7" / "f" / "responses" / "r"
    append_episodes(
        folder, [Episode(prompt=ROOM, completion=SAID, reward=None, stop_reason=StopReason.LENGTH, prompt_id="a")]
    )
    assert gains.won(tmp_path, "f") == {(7, "a"): 0.0}


def test_differences_are_of_the_same_game_and_seed(gains, out, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gains.py", str(out), "wide", "sft", "0.3", "--best_of", "2"])
    gains.main()
    rows = json.loads((out / "wide-gains.json").read_text())
    found = {row["of"]: (row["estimate"], row["groups"], row["pairs"]) for row in rows}
    assert found == {
        "the most valued of 2 over any of them": (4 / 8, 4, 8),
        "likewise, K = 2 to 2 together": (4 / 8, 4, 8),
        "the most valued of 2 over one reply, played once": (5 / 8, 4, 8),
        "the most valued of 2 over one reply, all 2 times": (9 / 16, 4, 16),
    }
    assert all(row["low"] <= row["estimate"] <= row["high"] for row in rows)


def test_another_set_of_games_cannot_be_paired(gains):
    with pytest.raises(KeyError):
        gains.gain("x", [({(0, "a"): 1.0}, {(0, "b"): 1.0})])
