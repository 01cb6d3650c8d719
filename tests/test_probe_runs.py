"""runs/credit/probes.py: the states it reads, what it predicts from them, and its results on made-up rows."""

import gzip
import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from doubles.models import saved_policy, tiny_llama
from doubles.tokenizers import byte_tokenizer
from scripts import loaded
from stepcredit.episodes.alignment import align
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import append_episodes
from stepcredit.models.scoring import step_starts


@pytest.fixture(scope="module")
def probes():
    with loaded("credit/probes.py") as module:
        yield module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny policy of two layers."""
    return saved_policy(tmp_path_factory.mktemp("model") / "tiny")


def run(probes, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["probes", *map(str, arguments)])
    probes.main()


def flags(model, out):
    return ["--model", model, "--output_dir", out, "--work_dir", out / "work", "--layers", 0, 2, "--device", "cpu"]


def test_a_state_is_that_in_which_a_step_begins(probes):
    policy = tiny_llama().eval()
    texts = ["ab\ncd\ne", "a", "long step\nb"]
    episodes = [Episode(prompt="q?", completion=text, reward=1.0, prompt_id="q") for text in texts]
    trajectories = [align(e, byte_tokenizer(), StepRule()) for e in episodes]
    found = probes.computed(policy, step_starts, [1, 2], trajectories)
    for trajectory, states in zip(trajectories, found, strict=True):
        for start, state in zip(step_starts(trajectory), states, strict=True):
            ids = torch.tensor(trajectory.ids[:start], dtype=torch.long)[None]
            hidden = policy.base_model(ids, output_hidden_states=True).hidden_states
            expected = torch.stack([hidden[layer][0, -1] for layer in (1, 2)]).detach()
            np.testing.assert_allclose(state, expected, rtol=2e-3, atol=2e-3)


def row(problem, right, wrong):
    return {"problem": problem, "right": right, "wrong": wrong, "kinds": ["+"] * len(wrong), "lengths": wrong}


def test_what_is_predicted_at_each_state(probes):
    known = [row("a", False, [0, 1, 0]), row("b", True, [0])]
    states = [np.arange(n * 4, dtype=np.float16).reshape(n, 2, 2) for n in (4, 2)]
    examples = probes.Examples.of(known, states, 1)
    assert examples.states.tolist() == [[2, 3], [6, 7], [10, 11], [14, 15], [2, 3], [6, 7]]
    assert examples.labels(probes.OUTCOMES).tolist() == [False] * 4 + [True] * 2
    assert examples.labels(probes.MARKS).tolist() == [True, True, False, False, True, True]


def test_a_probe_of_states_that_say_so_finds_every_mistake(probes):
    random = np.random.default_rng(0)

    def examples(count):
        known, states = [], []
        for k in range(count):
            first = k % 4  # 3: no mistake
            known.append(row(f"p{k}", first == 3, [int(step == first) for step in range(3)]))
            made = np.arange(4) > first
            states.append(np.stack([made, random.normal(size=4)], 1)[:, None].astype(np.float16))
        return probes.Examples.of(known, states, 0)

    test = examples(12)
    for k, values in enumerate(test.read_by(examples(40), probes.MARKS)):
        assert k % 4 == 3 or int(np.argmin(np.diff(values))) == k % 4


def test_results_on_traces(probes, model, tmp_path, monkeypatch):
    rows = [
        {"task": "sort", "prompt": f"sort {k}", "steps": ["one", "two", "so"], "answer": str(k % 2), "target": "1",
         "mistake_index": None if k % 2 else k % 3}
        for k in range(20)
    ]  # fmt: skip
    with gzip.open(tmp_path / "bigbench_mistake.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)
    run(probes, monkeypatch, *flags(model, tmp_path), "--data", tmp_path, "--on", "mistakes")
    found = json.loads((tmp_path / "mistakes.json").read_text())
    hits = [r for r in found if r["metric"] == "hit" and r["signal"] == "ΔV" and r["task"] == "all"]
    assert [(r["labels"], r["layer"], r["n"]) for r in hits] == [
        (labels, layer, 10) for labels in ("outcomes", "marks") for layer in (0, 2)
    ]
    monkeypatch.setattr(probes, "computed", None)  # states are read from the work folder
    run(probes, monkeypatch, *flags(model, tmp_path), "--data", tmp_path, "--on", "mistakes")
    assert json.loads((tmp_path / "mistakes.json").read_text()) == found


def test_results_on_own_and_on_llama2s_responses(probes, model, tmp_path, monkeypatch):
    texts = [("2 + 2 = 4\n4 * 2 = 8", 1.0), ("2 + 2 = 5\n5 * 2 = 10", 0.0), ("2 + 2 = 4\n4 * 2 = 9", 0.0)]
    for side in ("train", "test"):
        episodes = [
            Episode(prompt=f"q{p}", completion=text, reward=reward, prompt_id=f"{side}{p}", sample=s)
            for p in range(4) for s, (text, reward) in enumerate(texts)
        ]  # fmt: skip
        append_episodes(tmp_path / side, episodes)
    own = ["--on", "own", "--episodes", tmp_path / "test", "--train_episodes", tmp_path / "train"]
    run(probes, monkeypatch, *flags(model, tmp_path), *own)
    rows = json.loads((tmp_path / "own.json").read_text())
    hits = {(r["labels"], r["layer"]): r for r in rows if (r["signal"], r["metric"]) == ("ΔV", "hit")}
    assert set(hits) == {(labels, layer) for labels in ("outcomes", "marks") for layer in (0, 2)}
    assert {r["n"] for r in hits.values()} == {8}
    assert hits["outcomes", 0]["auc_within"] == 1.0  # 8, 0 or 9 before the end token

    rows = [
        {"qid": q, "prompt": f"q{q}", "response": f"add them all\n{q} {'yes' if k % 3 == 0 else 'no'}",
         "reward": float(k % 3 == 0), "prompt_variant": f"w{k % 2}"}
        for q in range(40) for k in range(6)
    ]  # fmt: skip
    with gzip.open(tmp_path / "gsm8k_test_rollouts_llama2chat_k16.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)
    small = ["--data", tmp_path, "--on", "llama2", "--questions", 8, "--test_questions", 4]
    run(probes, monkeypatch, *flags(model, tmp_path), *small)
    rows = json.loads((tmp_path / "llama2.json").read_text())
    end = {r["layer"]: r["auc"] for r in rows
           if (r["score"], r["at"], r["matched"]) == ("value", 1.0, False) and "minus" not in r}  # fmt: skip
    assert set(end) == {0, 2}
    assert end[0] == 1.0  # "s" or "o" before the end token
