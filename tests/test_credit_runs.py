"""runs/credit end to end on a few made-up rows with a tiny model: pieces, going on, and what the rows count."""

import gzip
import json
import sys

import pytest

from doubles.models import saved_policy, tiny_llama
from doubles.tokenizers import byte_tokenizer
from scripts import loaded
from stepcredit.episodes.alignment import align
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import append_episodes
from stepcredit.models.loading import value_model_from

LEARNING = ["--epochs", "1", "--batch", "4", "--micro_batch", "4", "--device", "cpu", "--size", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny policy."""
    return saved_policy(tmp_path_factory.mktemp("model") / "tiny")


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def run(module, monkeypatch, *arguments):
    work = (
        ["--work_dir", arguments[arguments.index("--output_dir") + 1] / "work"] if "credit" in module.__name__ else []
    )
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, [*arguments, *work])])
    module.main()


def results(folder, **columns):
    rows = json.loads((folder / "results.json").read_text())
    return [r for r in rows if all(r.get(k) == v for k, v in columns.items())]


def trace(task, number, mistake, steps=3):
    return {
        "task": task,
        "prompt": f"{task} {number}",
        "steps": [f"step {k}" for k in range(steps)],
        "answer": "1",
        "target": "1" if mistake is None else "2",
        "mistake_index": mistake,
    }


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Data folder of ten traces of each of two tasks, and one with an empty step."""
    folder = tmp_path_factory.mktemp("data")
    rows = [trace(task, k, None if k % 5 == 4 else 1 + k % 2) for k in range(10) for task in ("sort", "count")]
    write(folder / "bigbench_mistake.jsonl.gz", [*rows, {**trace("sort", 11, 1), "steps": ["a", " ", "b"]}])
    return folder


def test_mistakes(model, traces, tmp_path, monkeypatch):
    flags = ["--data", traces, "--model", model, "--output_dir", tmp_path, "--folds", 3, "--train_layers", 1]
    with loaded("credit/mistakes.py") as mistakes:
        run(mistakes, monkeypatch, *flags, *LEARNING, "--methods", "oreo", "dqo-process")
        (all_chance,) = results(tmp_path, metric="hit", signal="chance", method="oreo", task="all")
        assert (all_chance["estimate"], all_chance["n"]) == (0.3333, 4)
        assert {r["task"] for r in results(tmp_path)} == {"all", "sort", "count"}
        assert results(tmp_path, metric="hit_minus", minus="position", signal="β Σρ", method="dqo-process")
        assert not results(tmp_path, signal="kind of step")
        cases = json.loads((tmp_path / "cases.json").read_text())
        assert len(cases) == 4
        assert all(len(c["value"]) == len(c["steps"]) + 1 for c in cases)
        before = {f.name: f.read_bytes() for f in (tmp_path / "pieces").iterdir()}
        assert set(before) == {f"{m}-fold3-seed0-of250.json" for m in ("oreo", "dqo-process")}

        def forbidden(*_):
            raise AssertionError("a piece that is there is not made again")

        monkeypatch.setattr(mistakes, "learn", forbidden)
        kept = results(tmp_path)
        with pytest.raises(SystemExit, match="epochs"):
            run(mistakes, monkeypatch, *flags, *LEARNING, "--methods", "oreo", "--epochs", 3)
        run(mistakes, monkeypatch, *flags, *LEARNING, "--methods", "oreo", "dqo-process", "dqo", "--minutes", 0)
        assert results(tmp_path) == kept
        assert {f.name: f.read_bytes() for f in (tmp_path / "pieces").iterdir()} == before


def test_the_traces_are_split_within_tasks_and_the_steps_are_the_lists(traces):
    with loaded("credit/mistakes.py") as mistakes:
        read = mistakes.read(traces / mistakes.FILE)
        assert len(read) == 20  # without the one with an empty step
        assert [sum(t["fold"] == k and t["task"] == "sort" for t in read) for k in range(5)] == [2] * 5
        assert len(mistakes.read(traces / mistakes.FILE, limit=6)) == 6
        episode, marked = mistakes.episode_of(read[0]), mistakes.with_marks(read[0])
        assert (episode.completion, episode.reward) == ("step 0\nstep 1\nstep 2", 0)
        assert (marked.step_rewards, marked.reward, marked.outcome) == ((0, -1, 0), 0, 0)
        trajectory = align(marked, byte_tokenizer(), StepRule())
        (place,) = trajectory.reward.nonzero()[0]
        assert (trajectory.step_id[place], trajectory.reward[place]) == (1, -1)
        right = next(mistakes.with_marks(t) for t in read if t["mistake_index"] is None)
        assert (right.step_rewards, right.outcome) == ((0, 0, 0), 1)


def test_what_was_learned_from_marks_stands_beside_outcomes_where_all_traces_have_both():
    with loaded("credit/mistakes.py") as mistakes:
        same = {"right": False, "wrong": (0, 1), "kinds": ("sort",) * 2, "lengths": (1, 1)}
        marks, outcomes = ([mistakes.marked({**same, "problem": p, "value": [0, 0, 0], "implicit": i}) for p in "ab"]
                           for i in ([0.0, -1.0], [-1.0, 0.0]))  # fmt: skip
        both = mistakes.beside_outcomes(marks, outcomes)
        assert [r.signals[mistakes.OUTCOMES] for r in both] == [[-1.0, 0.0]] * 2
        assert mistakes.beside_outcomes(marks, outcomes[:1]) == marks
        (row,) = [
            r
            for r in mistakes.per_task([mistakes.replace(r, about={"task": "sort"}) for r in both], {}, 0)
            if (r["task"], r["signal"], r.get("minus")) == ("all", mistakes.IMPLICIT, mistakes.OUTCOMES)
        ]
        assert (row["estimate"], row["n"]) == (1.0, 2)


def test_marks_of_other_folds_alone_place_the_control(traces):
    with loaded("credit/mistakes.py") as mistakes:
        read = [t for t in mistakes.read(traces / mistakes.FILE) if t["task"] == "sort"]
        others = [{**t, "mistake_index": 2} for t in read if t["fold"]]
        fold = [{**t, "mistake_index": 0} for t in read if not t["fold"]]
        rows = [{**mistakes.marks_of(t, [1, 1, 1]), "value": [0, -0.5, 0.25, 0.5]} for t in fold]
        controlled = mistakes.controlled(others + fold, rows, "oreo-process")
        assert [r.signals["position"] for r in controlled] == [[0, 0, -1]] * 2
        assert [list(r.signals["-ΔV"]) for r in controlled] == [[0.5, -0.75, -0.25]] * 2


WORDS = ["add them all", "so we get it", "the sum is off", "that was right"]


@pytest.fixture(scope="module")
def llama2_data(tmp_path_factory):
    """Data folder: right responses end in one phrase more often than wrong ones."""
    folder = tmp_path_factory.mktemp("llama2")
    for name, writer in (("rollouts_llama2chat_k16", "prompt_variant"), ("solutions_6b_175b", "policy")):
        rows = [
            {"qid": q, "prompt": f"q{q}", "response": f"{WORDS[k % 4]}\n{q} {'yes' if k % 3 == 0 else 'no'}",
             "reward": float(k % 3 == 0), writer: f"w{k % 2}"}
            for q in range(40) for k in range(6)
        ]  # fmt: skip
        write(folder / f"gsm8k_test_{name}.jsonl.gz", rows)
    return folder


def test_llama2(model, llama2_data, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    flags = ["--data", llama2_data, "--model", model, "--output_dir", tmp_path, "--train_layers", 0, *LEARNING]
    with loaded("credit/llama2.py") as llama2:
        run(llama2, monkeypatch, *flags, "--questions", 8, "--test_questions", 4)
        files = {llama2.LLAMA2, llama2.SYSTEMS}
        for file in files:
            words = results(tmp_path, file=file, score="bag_of_words", at=1.0, matched=False)
            assert [(w["auc"], w["questions"], w["pairs"]) for w in words] == [(1.0, 4, 4 * 2 * 4)]
            (value,) = results(tmp_path, file=file, score="value", at=1.0, matched=False, minus=None)
            (apart,) = results(tmp_path, file=file, score="value", at=1.0, matched=False, minus="bag_of_words")
            assert apart["auc"] == pytest.approx(value["auc"] - 1)
        settings = json.loads((tmp_path / "settings.json").read_text())
        assert settings["questions"] == {"train": 8, **dict.fromkeys(files, 4)}
        cases = json.loads((tmp_path / "cases.json").read_text())
        assert [c["gap"] for c in cases] == sorted(c["gap"] for c in cases)
        assert all(c[side]["value"] for c in cases for side in ("right", "wrong"))
        kept = results(tmp_path)
        run(llama2, monkeypatch, *flags, "--questions", 8, "--test_questions", 4, "--summarise")
        assert results(tmp_path) == kept
        monkeypatch.setattr(llama2, "find_spec", lambda _: None)
        with pytest.raises(SystemExit, match="scikit-learn"):
            run(llama2, monkeypatch, *flags, "--questions", 8, "--test_questions", 4)


def test_real_logs_measures_with_the_same_code(llama2_data, tmp_path, monkeypatch):
    """The run from scratch, of which runs/credit takes the measuring code."""
    pytest.importorskip("sklearn")
    small = ["--hidden", "16", "--layers", "1", "--vocabulary", "300", "--sft-epochs", "0.2", "--oreo-epochs", "0.2"]
    with loaded("real_logs/run.py") as real_logs:
        run(real_logs, monkeypatch, "--data", llama2_data, "--output_dir", tmp_path, *small)
    rows = results(tmp_path, at=0.5)
    scores = ("value", "shorter", "variant_success_rate", "bag_of_words")
    assert [(r["score"], r["matched"]) for r in rows] == [(name, m) for name in scores for m in (False, True)]


def test_questions_trained_on_are_not_measured(llama2_data):
    with loaded("credit/llama2.py") as llama2:
        rows = llama2.read(llama2_data / llama2.LLAMA2)
        train, test = llama2.split(rows, 8, 4)
        of_train, of_test = ({e.prompt_id for e in part} for part in (train, test))
        assert (len(of_train), len(of_test), of_train & of_test) == (8, 4, set())
        fewer = {e.prompt_id for e in llama2.split(rows, 3, 4)[0]}
        assert fewer < of_train
        assert (rows[0].prompt, rows[0].completion) == ("Question: q0\nAnswer:", " add them all\n0 yes")


def own(problem, sample, text, right, **more):
    return Episode(prompt=f"q{problem}", completion=text, reward=float(right), prompt_id=f"p{problem}", sample=sample,
                   **more)  # fmt: skip


def test_own_errors(model, tmp_path, monkeypatch):
    episodes = [
        own(p, s, text, right)
        for p in range(4)
        for s, (text, right) in enumerate(
            [("2 + 2 = 4\n4 * 2 = 8\n#### 8", True), ("2 + 2 = 5\n5 * 2 = 10\n#### 10", False),
             ("2 + 2 = 4\n4 * 2 = 9\n#### 9", False), ("2 * 2 = 4\n#### 4", False)]
        )
    ]  # fmt: skip
    cut = own(0, 9, "2 + 2", False, stop_reason=StopReason.LENGTH)
    append_episodes(tmp_path / "episodes", [*episodes, cut])
    value = tmp_path / "value"
    value_model_from(tiny_llama()).save_pretrained(value)
    byte_tokenizer().save_pretrained(value)
    flags = ["--episodes", tmp_path / "episodes", "--value_model", value, "--output_dir", tmp_path, *LEARNING]
    with loaded("credit/own_errors.py") as own_errors:
        policies = ["--learned_policy", model, "--ref_model", model]
        run(own_errors, monkeypatch, *flags, *policies)
        rows = results(tmp_path, metric="hit", of="wrong responses", lines="all")
        assert {(r["signal"], r["n"], r["problems"]) for r in rows} == {
            (s, 8, 4) for s in ("chance", "ΔV", "β Σρ", "position", "kind of step", "length")
        }
        (chance,) = [r for r in rows if r["signal"] == "chance"]
        assert chance["estimate"] == 0.3333
        (chance,) = results(tmp_path, metric="hit", signal="chance", lines="equations")
        assert (chance["estimate"], chance["n"]) == (0.5, 8)  # without the line of the answer
        # a zero value head drops nowhere, and so does the policy that is its own reference: ties go to the first step
        assert {r["estimate"] for r in rows if r["signal"] in ("ΔV", "β Σρ")} == {0.5}
        (below,) = results(tmp_path, metric="below_kind_position", signal="ΔV")
        assert (below["estimate"], below["n"]) == (0.5, 2 * (2 * 4 + 2 * 2))  # within halves
        sorts = ("right", "wrong", "wrong_without_false_equation", "right_with_false_equation")
        assert [below[name] for name in sorts] == [4, 12, 4, 0]
        assert json.loads((tmp_path / "settings.json").read_text())["left_out"] == {"truncated, undecided or empty": 1}
        cases = json.loads((tmp_path / "cases-V.json").read_text())
        assert cases[0]["steps"][0].startswith("2 + 2")
        with pytest.raises(SystemExit, match="learned_policy"):  # V was scored with them
            run(own_errors, monkeypatch, *flags)
        run(own_errors, monkeypatch, *flags, *policies, "--train_episodes", tmp_path / "episodes")
        run(own_errors, monkeypatch, *flags, "--train_episodes", tmp_path / "episodes", "--name", "V2")
        assert {r["value_model"] for r in results(tmp_path)} == {"V", "V2"}
        (kind,) = results(tmp_path, metric="hit", signal="kind of step", lines="all", value_model="V2")
        assert kind["estimate"] == 0.5  # + is wrong in four of twelve, * in four of twelve
        with pytest.raises(SystemExit):
            run(own_errors, monkeypatch, *flags, "--learned_policy", model)
        with pytest.raises(SystemExit):
            run(own_errors, monkeypatch, *flags, "--limit", 4)  # one problem has no other half
