"""Balanced collection, and collections that are killed within a work unit."""

import errno
import json
import os
from contextlib import suppress

import pytest
import torch

from stepcredit.cli import main
from stepcredit.episodes import store
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.rollouts import work_units
from stepcredit.rollouts.balanced import DRAWN, balanced_episodes, kept
from stepcredit.rollouts.collect import CollectConfig, collect
from stepcredit.rollouts.work_units import PARTS, Unfinished
from stepcredit.tasks.arithmetic import Arithmetic
from stepcredit.tasks.task import Problem
from stepcredit.verdict import Verdict

OUTCOMES = {"r": (1.0, Verdict.RIGHT), "w": (0.0, Verdict.WRONG), "u": (None, Verdict.UNDECIDED)}


def response(prompt_id, number, outcome):
    reward, verdict = OUTCOMES[outcome]
    return Episode(prompt=prompt_id, completion=str(number), reward=reward, verdict=verdict, prompt_id=prompt_id,
                   sample=number)  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "each", "numbers", "counts"),
    [
        ("rrwwrrww", 2, [0, 1, 2, 3], (2, 2, 0)),
        ("rrrrwrww", 2, [0, 1, 4, 6], (5, 2, 0)),  # a third right one between is counted, not kept
        ("rrrruuuu", 2, [0, 1], (4, 0, 4)),
        ("uwwwwwwr", 2, [1, 2, 7], (1, 6, 1)),
        ("uuuuuuuu", 2, [0], (0, 0, 8)),  # leaves a trace
        ("rwrwrwrw", 1, [0, 1], (1, 1, 0)),
    ],
)
def test_the_first_of_each_kind_are_kept(outcomes, each, numbers, counts):
    drawn = [response("p", k, outcome) for k, outcome in enumerate(outcomes)]
    found = kept(drawn, each)
    assert [e.sample for e in found] == numbers
    expected = dict(zip(("right", "wrong", "other"), counts, strict=True))
    assert all(e.metadata[DRAWN] == expected for e in found)
    asked = []

    def draw(samples):
        asked.append([k for _, k in samples])
        return [response(p.prompt_id, k, outcomes[k]) for p, k in samples]

    again = balanced_episodes([Problem("p", "p", "a")], each, len(outcomes), draw)
    assert [(e.sample, e.metadata) for e in again] == [(e.sample, e.metadata) for e in found]
    numbers_asked = [k for round_ in asked for k in round_]
    assert numbers_asked == list(range(len(numbers_asked)))
    enough = next((n for n in range(1, 9) if min(map(outcomes[:n].count, "rw")) >= each), 8)
    assert enough <= len(numbers_asked) <= max(2 * each, enough + each - 1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Random weights, but for a bias towards ending at once after digits: some of its answers are right."""
    folder, tokenizer = tmp_path_factory.mktemp("policy"), Arithmetic().tokenizer()
    policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class Killed(BaseException):
    pass


def settings(policy, out, **given):
    return CollectConfig(task="arithmetic", model=policy, output_dir=str(out), limit=7, num_generations=6,
                         max_new_tokens=6, **{"batch_size": 4, **given})  # fmt: skip


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def decided(monkeypatch):
    """Verdicts that both occur, as a function of the response alone."""

    def grade(task, problem, text):
        from stepcredit.grading.grade import Grade

        right = sum(text.encode()) % 3 == 0
        return Grade(Verdict.RIGHT if right else Verdict.WRONG, text, "", strict=True)

    monkeypatch.setattr(Arithmetic, "grade", grade)


@pytest.mark.parametrize("balanced", [None, 1])
@pytest.mark.parametrize("after", [0, 1, 3, 8])
def test_a_collection_killed_within_a_unit_draws_the_rest_and_equals_an_undisturbed_one(
    policy, tmp_path, monkeypatch, decided, balanced, after
):
    torch.set_num_threads(1)
    monkeypatch.setattr(work_units, "UNIT_ROWS", 24)
    collect(settings(policy, tmp_path / "whole", balanced=balanced))
    batches = []
    keep = Unfinished.keep

    def killed(self, episodes):
        if len(batches) == after:
            raise Killed
        batches.append(len(episodes))
        keep(self, episodes)

    with monkeypatch.context() as patched:
        patched.setattr(Unfinished, "keep", killed)
        with suppress(Killed):
            collect(settings(policy, tmp_path / "out", balanced=balanced))
    if after:
        with pytest.raises(InputError, match="was collected with another seed"):
            collect(settings(policy, tmp_path / "out", balanced=balanced, seed=3))
    else:
        assert not (tmp_path / "out").exists()
    before = sum(batches)

    def counted(self, episodes):
        batches.append(len(episodes))
        keep(self, episodes)

    monkeypatch.setattr(Unfinished, "keep", counted)
    collect(settings(policy, tmp_path / "out", balanced=balanced))
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / "out" / PARTS).exists()
    if balanced is None:
        assert sum(batches) == 42  # nothing is drawn twice
    assert before <= sum(batches)


def test_a_full_disk_stops_a_collection_in_one_line_and_it_goes_on(policy, tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    monkeypatch.setattr(work_units, "UNIT_ROWS", 24)
    flags = ["--limit", "7", "--num_generations", "6", "--max_new_tokens", "6", "--batch_size", "4"]
    command = ["collect", "--task", "arithmetic", "--model", policy, *flags, "--output_dir"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    write, calls = store._write_draft, []

    def full(draft, *given):
        calls.append(draft)
        write(draft, *given)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "_write_draft", full)
    capsys.readouterr()
    assert main([*command, str(tmp_path / "out")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stepcredit")]
    (line,) = said
    assert str(tmp_path / "out") in line
    assert "cannot be written (No space left on device); make space and run the command again" in line
    assert not list((tmp_path / "out").rglob("*.part"))
    assert main([*command, str(tmp_path / "out")]) == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_balanced_episodes_do_not_depend_on_the_batches(policy, tmp_path, decided):
    found = []
    for size in (1, 5, 64):
        collect(settings(policy, tmp_path / str(size), balanced=1, batch_size=size))
        found.append([(e.prompt_id, e.sample, e.tokens.ids.tolist(), e.metadata[DRAWN], str(e.verdict))
                      for e in load_episodes(tmp_path / str(size))])  # fmt: skip
    assert found[0] == found[1] == found[2]
    assert {verdict for *_, verdict in found[0]} >= {"right", "wrong"}
    assert len(found[0]) <= 14


def test_the_manifest_and_inspect_say_that_a_folder_is_balanced(policy, tmp_path, decided, capsys):
    collect(settings(policy, tmp_path / "out", balanced=1))
    assert json.loads((tmp_path / "out" / "collect.json").read_text())["balanced"] == 1
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "Balanced: the kept ones of" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    drawn = json.loads(capsys.readouterr().out)["drawn"]
    assert drawn.keys() == {"right", "wrong", "other"}
    with pytest.raises(InputError, match="was collected with another balanced"):
        collect(settings(policy, tmp_path / "out"))
    with pytest.raises(InputError, match="balanced: worked solutions are not sampled"):
        collect(settings("solutions", tmp_path / "other", balanced=1))
