from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.episodes.alignment import Trajectory
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.trajectories import stored
from stepcredit.errors import InputError
from stepcredit.training.configs import DPOConfig, OREOConfig, RFTConfig
from stepcredit.training.data import balanced, prepare
from stepcredit.training.methods import METHODS


def labelled(prompt: str, reward: float, number: int) -> Trajectory:
    mask = np.array([False, True])
    return Trajectory(
        np.array([1, number], dtype=np.int32),
        mask,
        np.array([-1, 0]),
        np.array([0.0, reward], dtype=np.float32),
        None,
        False,
        prompt_id=prompt,
        outcome=reward,
    )


@pytest.mark.parametrize(
    ("right", "wrong", "kept"),
    [
        (16, 0, (1, 0)), (15, 1, (1, 1)), (14, 2, (2, 2)), (13, 3, (3, 3)), (12, 4, (4, 4)), (8, 8, (4, 4)),
        (4, 12, (4, 4)), (3, 13, (3, 4)), (1, 15, (1, 4)), (0, 16, (0, 4)), (3, 1, (1, 1)), (1, 0, (1, 0)),
        (0, 2, (0, 2)), (2, 1, (1, 1)),
    ],
)  # fmt: skip
def test_four_and_four_by_hand(right: int, wrong: int, kept: tuple[int, int]) -> None:
    """What OREO's 7B runs keep of a prompt's responses."""
    episodes = [labelled("p", float(k < right), k) for k in range(right + wrong)]
    rewards = [episodes[k].outcome for k in balanced(stored(episodes), 4, 1.0, 0)]
    assert (rewards.count(1.0), rewards.count(0.0)) == kept


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())), st.integers(1, 3), st.integers(0, 5))
def test_counts_and_order(drawn: list[tuple[str, bool]], most: int, seed: int) -> None:
    episodes = [labelled(prompt, float(right), k) for k, (prompt, right) in enumerate(drawn)]
    indices = balanced(stored(episodes), most, 1.0, seed).tolist()
    kept = [episodes[k] for k in indices]
    found, left = Counter(drawn), Counter((e.prompt_id, e.outcome >= 1) for e in kept)
    for prompt in "abc":
        right, wrong = left[prompt, True], left[prompt, False]
        assert wrong == min(most, found[prompt, False])
        assert right <= most
        assert right <= max(wrong, 1)
        assert right == found[prompt, True] or right in (most, max(wrong, 1))  # no fewer than those bounds ask for
    assert indices == sorted(set(indices))
    assert balanced(stored(episodes), most, 1.0, seed).tolist() == indices


@pytest.mark.parametrize(("reward", "limit", "kept"), [(1.0, 2, 1), (0.0, 1, 1)])
def test_every_response_has_its_chance(reward: float, limit: int, kept: int) -> None:
    episodes = stored(labelled("p", reward, k) for k in range(4))
    found: Counter[int] = Counter()
    for seed in range(200):
        indices = balanced(episodes, limit, 1.0, seed).tolist()
        assert len(indices) == kept
        found.update(indices)
    assert set(found) == {0, 1, 2, 3}
    assert min(found.values()) > 25


def test_training_leaves_the_rest_out_and_counts_it(byte_tokenizer, tmp_path) -> None:
    episodes = [Episode(prompt="p", completion=f"r{k}", reward=float(k < 5), prompt_id="p", sample=k) for k in range(8)]
    config = OREOConfig(output_dir=str(tmp_path), max_per_outcome=2, use_cpu=True)
    data = prepare(episodes, byte_tokenizer, config, METHODS["oreo"])
    assert [e.outcome for e in data.trajectories] == [1.0, 1.0, 0.0, 0.0]
    assert data.summary()["left_out/balanced"] == 4
    with pytest.raises(InputError, match="0 must be 1 or more"):
        OREOConfig(output_dir=str(tmp_path), max_per_outcome=0, use_cpu=True)


def test_rejection_sampling_learns_from_the_right_ones_of_the_balance(byte_tokenizer, tmp_path) -> None:
    """Wrong responses are counted before they are left out: 3 right ones beside 2 wrong ones leave 2."""
    episodes = [Episode(prompt="p", completion=f"r{k}", reward=float(k < 3), prompt_id="p", sample=k) for k in range(5)]
    given = {"output_dir": str(tmp_path), "max_per_outcome": 4, "use_cpu": True}
    right = prepare(episodes, byte_tokenizer, RFTConfig(**given), METHODS["rft"])
    assert [e.outcome for e in right.trajectories] == [1.0, 1.0]
    assert right.left_out == {"balanced": 1, "filtered": 2}
    both = prepare(episodes, byte_tokenizer, OREOConfig(**given), METHODS["oreo"])
    ids = [e.ids.tolist() for e in both.trajectories if e.outcome == 1]
    assert ids == [e.ids.tolist() for e in right.trajectories]


def test_a_reward_that_is_the_threshold_is_right(byte_tokenizer, tmp_path) -> None:
    """0.7 in single precision is less than 0.7."""
    episodes = [Episode(prompt="p", completion=f"{k}", reward=(0.2, 0.7)[k], prompt_id="p", sample=k) for k in (0, 1)]
    config = DPOConfig(output_dir=str(tmp_path), reward_threshold=0.7, use_cpu=True)
    assert len(prepare(episodes, byte_tokenizer, config, METHODS["dpo"])) == 1
