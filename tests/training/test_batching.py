"""Single items, preference pairs and mismatched pairs from unpaired episodes."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_methods import moved
from test_trainer import trainer
from torch.utils.data import DataLoader

from doubles.models import tiny_llama
from stepcredit import DPOConfig, Episode, InputError, KTOConfig, TOPRConfig
from stepcredit.episodes.alignment import Trajectory, splice
from stepcredit.episodes.trajectories import stored
from stepcredit.training.items import MISMATCHED, PAIRS, SINGLE, mismatched_pairs, preference_pairs


def row(prompt, response, reward, prompt_id=""):
    """A trajectory of these prompt and response ids, with one outcome."""
    mask = np.array([False] * len(prompt) + [True] * len(response))
    rewards = np.zeros(len(mask), dtype=np.float32)
    rewards[-1] = reward
    step_id = np.where(mask, np.cumsum(mask) - 1, -1)
    return Trajectory(
        np.array([*prompt, *response], dtype=np.int32), mask, step_id, rewards, None, False, False, prompt_id, reward
    )


def settings_of(**given):
    return SimpleNamespace(
        **{"seed": 0, "reward_threshold": 1.0, "max_pairs_per_prompt": 6, "max_length": None, **given}
    )


def labelled(counts):
    """`counts[p] = (right, wrong)` responses to prompt p; response ids are unique."""
    out, number = [], 10
    for prompt, (right, wrong) in counts.items():
        for reward in [1.0] * right + [0.0] * wrong:
            out.append(row([1, 2], [number], reward, prompt))
            number += 1
    return out


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5),
    st.integers(1, 8),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_pairs_are_right_over_wrong_of_one_prompt_capped_and_seeded(counts, cap, seed):
    episodes = labelled({f"p{k}": c for k, c in enumerate(counts)})
    config = settings_of(max_pairs_per_prompt=cap, seed=seed)
    possible = [right * wrong for right, wrong in counts]
    if not any(possible):
        with pytest.raises(InputError, match="no prompt has both a right and a wrong response"):
            preference_pairs(stored(episodes), config)
        return
    pairs = preference_pairs(stored(episodes), config).tolist()
    items = [(episodes[good], episodes[bad]) for good, bad in pairs]
    assert all(good.reward.sum() == 1 and bad.reward.sum() == 0 for good, bad in items)
    assert all(good.prompt_id == bad.prompt_id for good, bad in items)
    assert len(set(map(tuple, pairs))) == len(pairs)
    found = Counter(good.prompt_id for good, _ in items)
    assert [found[f"p{k}"] for k in range(len(counts))] == [min(cap, n) for n in possible]
    assert preference_pairs(stored(episodes), config).tolist() == pairs


def test_another_seed_takes_other_pairs():
    episodes = stored(labelled({"p": (6, 6)}))
    taken = [preference_pairs(episodes, settings_of(seed=seed)) for seed in range(4)]
    assert len({frozenset(map(tuple, pairs.tolist())) for pairs in taken}) > 1


def test_items_read_their_trajectories():
    episodes = labelled({"p": (1, 2), "q": (1, 0)})
    single = SINGLE.items(stored(episodes), None)
    assert [[t.ids.tolist() for t in item] for item in single] == [[e.ids.tolist()] for e in episodes]
    assert single.lengths.tolist() == [3] * 4
    assert single.prompts.tolist() == [0, 0, 0, 1]
    pairs = PAIRS.items(stored(episodes), settings_of())
    assert sorted([t.ids.tolist() for t in item] for item in pairs) == [[[1, 2, 10], [1, 2, k]] for k in (11, 12)]


def test_prompts_of_items_are_numbered_without_a_gap():
    """Those without a pair have no number: the order of an epoch is drawn over all numbers."""
    pairs = PAIRS.items(stored(labelled({"p": (2, 0), "q": (1, 1), "r": (0, 1), "s": (1, 1)})), settings_of())
    assert pairs.prompts.tolist() == [0, 1]


def test_spliced_by_hand():
    ours, theirs = row([1, 2, 3], [4, 5], 1.0, "ours"), row([6], [7, 8, 9], 1.0, "theirs")
    found = splice(ours, theirs)
    assert found.ids.tolist() == [1, 2, 3, 7, 8, 9]
    assert found.action_mask.tolist() == [False] * 3 + [True] * 3
    assert found.step_id.tolist() == [-1, -1, -1, 0, 1, 2]
    assert found.reward.tolist() == [0.0] * 6
    assert found.behavior_log_prob is None
    assert (found.prompt_id, found.outcome) == ("ours", 0.0)


def test_mismatched_pairs_join_a_prompt_and_a_response_to_another_prompt():
    episodes = [row([k % 3], [10 + k], float(k % 2), f"p{k % 3}") for k in range(9)]
    items = MISMATCHED.items(stored(episodes), settings_of())
    assert [item[0].ids.tolist() for item in items] == [e.ids.tolist() for e in episodes]
    assert [item[1].prompt_id for item in items] == [e.prompt_id for e in episodes]
    for k, (_, stranger) in enumerate(items):
        prompt, response = stranger.ids.tolist()
        assert prompt == k % 3
        assert (response - 10) % 3 != k % 3
    used = Counter(stranger.ids[1] for _, stranger in items)
    assert len(used) > 4
    with pytest.raises(InputError, match="needs a response to another prompt"):
        mismatched_pairs(stored(e for e in episodes if e.prompt_id == "p0"), settings_of())
    with pytest.raises(InputError, match="needs a response to another prompt"):
        mismatched_pairs(stored(episodes), settings_of(max_length=1))


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=2, max_size=8), st.integers(0, 3))
def test_lengths_of_mismatched_pairs_are_those_of_their_rows(drawn, seed):
    episodes = stored(row([1] * p, [2] * r, 0.0, f"p{k}") for k, (p, r) in enumerate(drawn))
    limit = max(p for p, _ in drawn) + sorted(r for _, r in drawn)[1]
    items = MISMATCHED.items(episodes, settings_of(seed=seed, max_length=limit))
    assert items.lengths.tolist() == [max(map(len, item)) for item in items]
    assert all(len(item[1]) <= limit for item in items)


def data():
    made = []
    for k in range(6):
        for text, reward in (("good" + "!" * k, 1.0), ("bad", 0.0)):
            made.append(Episode(prompt=f"q{k}", completion=text, reward=reward, prompt_id=f"q{k}"))
    return made


def test_dpo_learns_from_pairs_and_counts_them(tmp_path):
    run = moved(trainer(tmp_path, DPOConfig, model=tiny_llama().double(), data=data(), beta=0.2))
    assert len(run.train_dataset) == 6
    assert run.train_dataset.summary()["items"] == 6
    batch = run.data_collator([run.train_dataset[k] for k in range(4)])
    terms, statistics = run._terms(run.model, batch)
    total = ((statistics.log_prob - statistics.ref_log_prob) * batch["action_mask"]).sum(-1)
    margin = 0.2 * (total[:4] - total[4:])
    torch.testing.assert_close(terms.policy, -torch.nn.functional.logsigmoid(margin))
    assert int(run._items([batch])) == 4
    assert batch["reward"].sum(-1).tolist() == [1.0] * 4 + [0.0] * 4


@pytest.mark.parametrize("swapped", [False, True])
def test_kto_measures_its_baseline_on_mismatched_responses(tmp_path, swapped):
    run = moved(trainer(tmp_path, KTOConfig, model=tiny_llama().double(), data=data(), beta=0.2))
    if swapped:  # every log-ratio the other way round, and the baseline above zero
        policy, reference = run.model.policy.state_dict(), run.model.reference.state_dict()
        before = {name: x.clone() for name, x in policy.items()}
        run.model.policy.load_state_dict(reference)
        run.model.reference.load_state_dict(before)
    assert len(run.train_dataset) == 12
    batch = run.data_collator([run.train_dataset[k] for k in range(12)])
    terms, signals = run._terms(run.model, batch)
    with torch.no_grad():
        everything = run._run(run.model, batch).statistics
    total = everything.log_prob.sum(-1) - everything.ref_log_prob.sum(-1)
    baseline = total[12:].mean().clamp(min=0)
    assert (baseline > 0) == swapped
    sign = torch.tensor([1.0, -1.0] * 6, dtype=total.dtype)
    torch.testing.assert_close(terms.policy.detach(), 1 - torch.sigmoid(0.2 * sign * (total[:12] - baseline)))
    assert terms.metrics["kl"].number() == pytest.approx(baseline.item())
    assert len(signals.log_prob) == 12  # no loss, no gradient and no metric of the mismatched ones
    assert signals.outcome.tolist() == [1.0, 0.0] * 6


def test_the_workers_of_a_loader_read_items(tmp_path):
    run = trainer(tmp_path, KTOConfig, data=data(), dataloader_num_workers=1)
    loader = DataLoader(
        run.train_dataset, 5, collate_fn=run.data_collator, num_workers=1, multiprocessing_context="spawn"
    )
    for number, batch in enumerate(loader):
        here = [run.train_dataset[k] for k in range(5 * number, min(5 * number + 5, 12))]
        assert torch.equal(batch["input_ids"], run.data_collator(here)["input_ids"])
    assert number == 2


def test_topr_requires_behaviour_log_probabilities(tmp_path):
    with pytest.raises(InputError, match="topr needs log-probabilities of the behaviour policy"):
        trainer(tmp_path, TOPRConfig, data=data())


@pytest.mark.parametrize("kind", [DPOConfig, KTOConfig])
def test_a_step_moves_the_policy(tmp_path, kind):
    run = trainer(tmp_path, kind, data=data(), max_steps=2, learning_rate=1e-3, warmup_steps=0, beta=0.2)
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    run.train()
    assert any(not torch.equal(p, before[n]) for n, p in run.model.named_parameters())
    assert "rewards/margins" in run.state.log_history[0]
