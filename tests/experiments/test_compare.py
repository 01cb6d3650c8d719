"""The comparison at toy size: runs, resuming, rates chosen on validation, paired rows."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from doubles.models import tiny_llama
from doubles.work import double
from stepcredit.cli import main
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.errors import InputError, NotFiniteError
from stepcredit.experiments import compare as compare_module
from stepcredit.experiments import compare_runs, initial_policy
from stepcredit.experiments.compare import CompareConfig, Comparison, choose_rates, compare
from stepcredit.experiments.compare_runs import make_initial, problem_sets, train_and_test
from stepcredit.experiments.grid import Run, run_grid
from stepcredit.experiments.pairs import add_problem_errors, pair_rows
from stepcredit.experiments.scratch import ModelSize
from stepcredit.files import write_json
from stepcredit.models import first_use
from stepcredit.tasks import arithmetic
from stepcredit.tasks.registry import load_task

TOY = {
    "task": "arithmetic",
    "methods": ["rft", "dpo", "kto", "oreo-process", "oreo"],
    "seeds": [0],
    "tuning_seed": 1,
    "learning_rates": [1e-3, 1e-6],
    "steps": 2,
    "demonstrations": 1500,
    "sft_steps": 170,
    "train_prompts": 24,
    "num_generations": 4,
    "validation_prompts": 12,
    "test_prompts": 16,
    "credit_prompts": 6,
    "continuations": 4,
    "settings": '{"all": {"per_device_train_batch_size": 8}, "oreo": {"value_warmup_steps": 1, "beta": 0.1}}',
}

SAMPLING = {"max_new_tokens": None, "batch_size": 256, "reload": False, "dtype": None}


@pytest.fixture
def easy(monkeypatch):
    """Two groups a problem and a very small model."""
    monkeypatch.setattr(arithmetic, "GROUPS", 2)
    monkeypatch.setattr(initial_policy, "ModelSize", lambda: ModelSize(32, 64, 2, 2))


@pytest.mark.long
def test_a_toy_comparison_and_its_second_run(easy, tmp_path, monkeypatch):
    config = CompareConfig(output_dir=str(tmp_path / "out"), **TOY)
    counts = compare(config)
    assert counts == {"methods": 6, "seeds": 1, "runs": 6}
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(r["method"], r["search"]) for r in rows] == [
        (m, s) for m in ("sft", "rft", "dpo", "kto", "oreo-process", "oreo") for s in ("greedy", "sample")
    ]
    assert all(r["steps"] == 2 and r["tokens_trained"] > 0 and r["n"] == 16 for r in rows if r["method"] != "sft")
    grid = json.loads((tmp_path / "out" / "grid.json").read_text())
    assert len(grid) == 20
    assert all(r["split"] == "validation" and r["seed"] == 1 for r in grid)
    for method in TOY["methods"]:
        score = {
            rate: sum(r["accuracy"] for r in grid if (r["method"], r["learning_rate"]) == (method, rate))
            for rate in TOY["learning_rates"]
        }
        (chosen,) = {r["learning_rate"] for r in grid if r["method"] == method and r["chosen"]}
        assert score[chosen] == max(score.values())
        assert {r["learning_rate"] for r in rows if r["method"] == method} == {chosen}
    pairs = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert len(pairs) == 2 * 15
    judged = json.loads((tmp_path / "out" / "localisation.json").read_text())
    assert {r["signal"] for r in judged if r["metric"] == "first_wrong_step"} == {
        "kind of step", "dpo β Σρ", "kto β Σρ", "oreo-process ΔV", "oreo-process β Σρ", "oreo ΔV", "oreo β Σρ",
        "sft continuations", "oreo continuations",
    }  # fmt: skip
    timings = json.loads((tmp_path / "out" / "timings.json").read_text())
    assert [t["phase"] for t in timings] == ["policies and episodes", "learning rates", "methods × seeds", "credit"]
    assert all(t["seconds"] > 0 for t in timings)
    assert {r.get("against") for r in judged} == {None, "sft continuations", "oreo continuations"}
    assert "Who finds the wrong step" in (tmp_path / "out" / "report.html").read_text()

    start_folder = tmp_path / "out" / "runs" / "sft-seed0"
    given = {"model": str(start_folder / "policy"), "episodes": str(start_folder / "episodes"), "credit_prompts": 0}
    shared = CompareConfig(
        output_dir=str(tmp_path / "shared"),
        **{**TOY, **given, "methods": ["rft"], "seeds": [0, 2], "learning_rates": [1e-3]},
    )
    compare(shared)
    again = json.loads((tmp_path / "shared" / "results.json").read_text())
    assert [r["accuracy"] for r in again[:2]] == [r["accuracy"] for r in rows[:2]]
    assert [r["accuracy"] for r in again if (r["method"], r["seed"]) == ("rft", 0)] == [
        r["accuracy"] for r in rows if r["method"] == "rft"
    ] or rows[2]["learning_rate"] != 1e-3
    assert not (tmp_path / "shared" / "localisation.json").exists()
    assert sorted(run.name for run in (tmp_path / "shared" / "runs").iterdir()) == [
        "rft-seed0-lr0.001-test", "rft-seed2-lr0.001-test", "sft-seed0", "sft-seed2",
    ]  # fmt: skip
    alone = {**TOY, "model": given["model"], "credit_prompts": 0, "methods": ["oreo"], "learning_rates": [1e-3]}
    compare(CompareConfig(output_dir=str(tmp_path / "alone"), **{**alone, "seeds": [0, 2], "num_generations": 2}))
    drawn = [load_episodes(tmp_path / "alone" / "runs" / f"sft-seed{seed}" / "episodes") for seed in (0, 2)]
    assert [len(episodes) for episodes in drawn] == [48, 48]  # each seed has samples of its own
    assert [e.completion for e in drawn[0]] != [e.completion for e in drawn[1]]

    def never(*args, **given):
        raise AssertionError("a finished run was run again")

    before = (tmp_path / "out" / "results.json").read_bytes()
    monkeypatch.setattr(compare_runs, "train_and_save", never)
    monkeypatch.setattr(compare_runs, "demonstrated_policy", never)
    compare(config)
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    with pytest.raises(InputError, match=r"was made with another settings; choose another --output_dir"):
        compare(CompareConfig(output_dir=str(tmp_path / "out"), **{**TOY, "steps": 3}))


def test_paired_rows_by_hand():
    def result(method, seed, right):
        row = {"method": method, "split": "test", "search": "greedy", "seed": seed, "n": len(right)}
        return {"rows": [row], "right": [right], "problems": [[f"{seed}/{k}" for k in range(len(right))]]}

    results = [
        result("sft", 0, [0, 0, 1]),
        result("sft", 1, [0, 1, 1]),
        result("rft", 0, [1, 1, 1]),
        result("rft", 1, [1, 0, 1]),
    ]
    (row,) = pair_rows("arithmetic", results)
    assert (row.method_a, row.method_b, row.n) == ("sft", "rft", 6)
    assert (row.only_a, row.only_b) == (1, 3)
    assert row.difference == pytest.approx(-2 / 6, abs=1e-6)
    assert row.p == pytest.approx(2 * (1 + 4) / 16)
    assert row.low <= row.difference <= row.high


def test_every_file_of_a_transfer_is_a_split(tmp_path):
    row = {"question": "1 + 1?", "answer": "#### 2"}
    for name, count in (("test", 3), ("other.v2", 5)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(count)))
    task, test = {"name": "gsm8k", "prompt_style": "plain"}, {"split": "test", "prompts": 3}
    sets = problem_sets(task, str(tmp_path), [str(tmp_path / "other.v2.jsonl")], test, 0)
    assert [(s.split, len(s.problems)) for s in sets] == [("test", 3), ("other", 3)]
    assert sets[0].task.source_versions.keys() == sets[1].task.source_versions.keys() == {"test"}


@pytest.mark.parametrize("others", [["svamp.jsonl", "old/svamp.v1.jsonl"], ["test.jsonl"]])
def test_two_sets_of_problems_of_one_name_are_refused(tmp_path, others):
    row = json.dumps({"question": "1 + 1?", "answer": "#### 2"})
    files = [tmp_path / name for name in ("train.jsonl", "validation.jsonl", "test.jsonl", *others)]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{row}\n")
    one = {"train_prompts": 1, "validation_prompts": 1, "test_prompts": 1}
    given = {"task": "gsm8k", "prompt_style": "plain", "data": str(tmp_path), "model": "p", **one}
    transfer = [str(tmp_path / name) for name in others]
    with pytest.raises(InputError, match=r"/(svamp|test)\.jsonl: its rows are the split \1, which there is"):
        compare(CompareConfig(output_dir=str(tmp_path / "out"), transfer=transfer, **given))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["initial", "final"])
def test_a_run_that_was_tested_without_a_transfer_is_not_reused_with_it(tmp_path, monkeypatch, kind):
    rows = [json.dumps({"question": f"{k} + 1?", "answer": f"#### {k + 1}"}) + "\n" for k in range(3)]
    for k, name in enumerate(("train", "validation", "test")):
        (tmp_path / f"{name}.jsonl").write_text(rows[k])
    (tmp_path / "other.jsonl").write_text(json.dumps({"question": "3 + 1?", "answer": "#### 4"}))
    given = {"task": "gsm8k", "prompt_style": "plain", "data": str(tmp_path), "model": "p", "seeds": [0]}
    given |= {"train_prompts": 1, "validation_prompts": 1, "test_prompts": 1, "methods": ["rft"], "settings": "{}"}
    config = CompareConfig(output_dir=str(tmp_path / "out"), transfer=[str(tmp_path / "other.jsonl")], **given)
    comparison = Comparison(config)
    old = comparison.initial(0) if kind == "initial" else comparison.final("rft", 0, 1e-4)
    result = {"rows": [{"split": "test"}, {"split": "test"}]}
    write_json(old.folder / "result.json", {"settings": old.settings, "result": result, "seconds": 1.0})
    made = []
    monkeypatch.setattr(Comparison, "run", lambda self, phase, runs: made.append(phase) or [{}] * len(runs))
    monkeypatch.setattr(compare_module, "choose_rates", lambda comparison: {"rft": 1e-4})
    with pytest.raises(InputError, match=r"was tested on test, not on test, other; give the --transfer of then"):
        compare(config)
    assert made == ([] if kind == "initial" else ["policies and episodes"])


def test_a_problem_of_several_seeds_is_resampled_as_one():
    def result(method, seed, right):
        row = {"method": method, "split": "test", "search": "greedy", "seed": seed, "n": 2}
        return {"rows": [row], "right": [right], "problems": [["a", "b"]]}

    seeds = [(0, [1, 0]), (1, [1, 0]), (2, [1, 0])]
    (row,) = pair_rows("gsm8k", [result("x", *s) for s in seeds] + [result("y", seed, [0, 0]) for seed, _ in seeds])
    assert (row.n, row.seeds, row.difference) == (6, 3, 0.5)
    assert (row.low, row.high) == (0, 1)  # of two problems, not of six


def solved_by(method, seed, right, problems, split="test"):
    row = {"method": method, "split": split, "search": "greedy", "seed": seed, "n": len(right)}
    return {"rows": [row], "right": [right], "problems": [problems]}


def test_a_run_of_another_model_of_the_same_name_is_refused(tmp_path):
    def made(content):
        return Run(tmp_path / "a", double, {"number": 1}, inputs={"model": content})

    run_grid([made("one")], "test", jobs=1, threads=1)
    assert made("one").finished()
    with pytest.raises(InputError, match="was made with another model; choose another --output_dir"):
        made("other").finished()
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    del result["inputs"]  # as pieces of another machine
    write_json(tmp_path / "a" / "result.json", result)
    assert made("other").finished()


def test_pairs_are_of_the_same_problems_in_any_order():
    ordered = [solved_by("x", 0, [1, 0], ["a", "b"]), solved_by("y", 0, [0, 1], ["b", "a"])]
    (row,) = pair_rows("gsm8k", ordered)
    assert (row.difference, row.only_a, row.only_b) == (0, 0, 0)
    for other in (solved_by("y", 0, [1, 0], ["a", "c"]), solved_by("y", 1, [1, 0], ["a", "b"])):
        with pytest.raises(InputError, match="x and y were not tested on the same problems of test"):
            pair_rows("gsm8k", [ordered[0], other])


def test_the_error_over_problems_that_seeds_share():
    """Means of the four problems: 1, 1/2, 0, 1/2; their variance 1/6, of the mean 1/24."""
    shared = [solved_by("x", 0, [1, 1, 0, 0], list("abcd")), solved_by("x", 1, [1, 0, 0, 1], list("abcd"))]
    apart = [
        solved_by("y", 0, [1, 0], ["a", "b"]),
        solved_by("y", 1, [1, 0], ["c", "d"]),
        solved_by("z", 0, [1, 0], ["a", "b"]),
    ]
    add_problem_errors([*shared, *apart])
    assert [r["rows"][0]["stderr_problems"] for r in shared] == pytest.approx([(1 / 24) ** 0.5] * 2, abs=1e-6)
    assert not any("stderr_problems" in r["rows"][0] for r in apart)


@pytest.mark.long
def test_runs_side_by_side_go_on_after_one_fails(tmp_path):
    runs = [Run(tmp_path / str(k), double, {"number": k}) for k in (1, -1, 2)]
    with pytest.raises(InputError, match=r"1 of 3 runs failed; run the command again to retry them: -1: number: is"):
        run_grid(runs, "test", jobs=2, threads=1)
    (failed,) = [Run(tmp_path / "a", double, {"number": "x"})]
    with pytest.raises(InputError, match="a: TypeError: '<' not supported"):
        run_grid([failed], "test", jobs=2, threads=1)
    good = [runs[0], runs[2]]
    assert run_grid(good, "test", jobs=1, threads=1) == [{"double": 2}, {"double": 4}]
    assert [(c.folder / "runs").read_text() for c in good] == ["x", "x"]


@pytest.mark.parametrize(("written", "is_kept"), [("model/checkpoint-3/state", True), ("model/state", False)])
def test_an_interrupted_run_keeps_its_checkpoints_and_nothing_else(tmp_path, written, is_kept):
    def interrupted(folder):
        (folder / written).parent.mkdir(parents=True)
        (folder / written).touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid([Run(tmp_path / "runs" / "a", interrupted, {})], "test", jobs=1, threads=1)
    assert (tmp_path / "runs" / "a" / written).exists() is is_kept
    assert (tmp_path / "runs").exists() is is_kept


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--methods grpo", "methods: unknown method 'grpo'"),
        ("--task sums", "task: unknown task 'sums'"),
        ("--seeds 0 0", "seeds: must have at least one value, and no duplicates"),
        ("--seeds 0 100", "tuning_seed: 100 is one of the compared seeds"),
        ("--episodes e", "model: --episodes needs the policy that they train; pass --model"),
        ("--task gsm8k --data gsm8k.jsonl --model p", "gsm8k.jsonl: no such file"),
        ("--transfer other.jsonl", "data: not supported by arithmetic"),
        ("--searches beam", "searches: unknown search 'beam'"),
        ("--settings {", "settings: not JSON"),
        ('--settings {"ppo":{}}', "settings: unknown setting 'ppo'"),
        ("--jobs 0", "jobs: 0 must be 1 or more"),
    ],
)
def test_settings_that_make_no_sense(given, says, tmp_path, capsys):
    task = [] if "--task" in given else ["--task", "arithmetic"]
    assert main(["compare", "--output_dir", str(tmp_path / "out"), *task, *given.split()]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prompts_that_are_validation_problems_too_are_refused(tmp_path):
    """GSM8K's validation is the end of its train, unless a file has it."""
    rows = [json.dumps({"question": f"{k} + 1?", "answer": f"#### {k + 1}"}) + "\n" for k in range(510)]
    (tmp_path / "train.jsonl").write_text("".join(rows))
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "0 + 2?", "answer": "#### 2"}))
    given = {"task": "gsm8k", "prompt_style": "plain", "data": str(tmp_path), "model": "p", "dry_run": True}
    given |= {"validation_prompts": 500, "test_prompts": 1, "output_dir": str(tmp_path / "out")}
    with pytest.raises(InputError, match="train_prompts: 2 problems of validation are among these prompts; take fewer"):
        compare(CompareConfig(**given, train_prompts=12))
    assert compare(CompareConfig(**given, train_prompts=10))["initial policies"] == 4


QUESTIONS = {"train": ["1?", "2?"], "validation": ["3?"], "test": ["4?"], "other": ["5?"]}


def asked(folder, **changed):
    """A comparison on files with these questions, as many as there are."""
    sets = {**QUESTIONS, **changed}
    for name, questions in sets.items():
        rows = [json.dumps({"question": question, "answer": "#### 1"}) + "\n" for question in questions]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    given = {f"{name}_prompts": len(sets[name]) for name in ("train", "validation", "test")}
    given |= {"task": "gsm8k", "prompt_style": "plain", "data": str(folder), "model": "p", "dry_run": True}
    return {**given, "output_dir": str(folder / "out"), "transfer": [str(folder / "other.jsonl")]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test": ["1? "]}, "train_prompts: 1 problems of test are among these prompts, or those of validation"),
        ({"test": ["3?"]}, "train_prompts: 1 problems of test are among these prompts, or those of validation"),
        ({"other": ["2?"]}, "train_prompts: 1 problems of other are among these prompts"),
        ({"validation": ["\n1?"]}, "train_prompts: 1 problems of validation are among these prompts; take fewer"),
    ],
)
def test_problems_are_known_by_their_text(tmp_path, changed, message):
    """Files number their problems each for itself."""
    compare(CompareConfig(**asked(tmp_path)))
    with pytest.raises(InputError, match=message):
        compare(CompareConfig(**asked(tmp_path, **changed)))


def test_a_file_that_is_train_and_test_is_refused(tmp_path):
    given = asked(tmp_path, other=[f"{k}?" for k in range(510)])
    given |= {"data": str(tmp_path / "other.jsonl"), "transfer": [], "train_prompts": 9}
    with pytest.raises(InputError, match="train_prompts: 9 problems of test are among these prompts"):
        compare(CompareConfig(**{**given, "test_prompts": 9}))


def test_episodes_of_test_problems_are_refused(tmp_path):
    given = asked(tmp_path)
    (problem,) = load_task("gsm8k", str(tmp_path), "plain").problems("test", 1)
    append_episodes(
        tmp_path / "episodes", [Episode(prompt=problem.prompt, completion="4", prompt_id="own", reward=1.0)]
    )
    with pytest.raises(InputError, match="episodes: 1 problems of test are among these prompts"):
        compare(CompareConfig(**given, episodes=str(tmp_path / "episodes")))


def test_a_dry_run_counts_and_writes_nothing(tmp_path, capsys):
    assert main(["compare", "--task", "chain", "--output_dir", str(tmp_path / "out"), "--dry_run", "true"]) == 0
    assert "4 initial policies, 24 tuning runs, 24 test runs" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_every_seed_has_samples_of_its_own_from_one_model(tmp_path, byte_tokenizer):
    task, model, test = {"name": "arithmetic"}, tmp_path / "model", {"split": "test", "prompts": 1, "searches": []}
    tiny_llama().save_pretrained(model)
    byte_tokenizer.save_pretrained(model)

    def sampled(name, seed):
        sampling = {"max_new_tokens": 8, "batch_size": 256, "reload": False, "dtype": None}
        counts = {"prompts": 2, "samples": 3}
        make_initial(tmp_path / name, task, seed, {}, counts, sampling, test, model=str(model))
        return [list(e.tokens.ids) for e in load_episodes(tmp_path / name / "episodes")]

    assert sampled("0", 0) == sampled("0 again", 0) != sampled("1", 1)


@pytest.mark.parametrize(("split", "left"), [("validation", []), ("test", ["policy", "policy_adapter", "value"])])
def test_a_tuning_run_keeps_no_model_and_no_adapter(tmp_path, monkeypatch, split, left):
    def trains(model, args, *given, **configs):
        for name in ("policy", "policy_adapter", "value", "checkpoint-1"):
            (tmp_path / "run" / name).mkdir(parents=True)
        return SimpleNamespace(model=SimpleNamespace(policy=None), state=SimpleNamespace(log_history=[]))

    monkeypatch.setattr(compare_runs, "train_and_save", trains)
    monkeypatch.setattr(compare_runs, "load_episodes", lambda folder: [])
    for name in ("load_tokenizer", "engine_of", "problem_sets"):
        monkeypatch.setattr(compare_runs, name, lambda *given: None)
    for name, found in (("_budget", {}), ("curve", []), ("tested", {"rows": []})):
        monkeypatch.setattr(compare_runs, name, lambda *given, found=found: found)
    given = {"task": {"name": "arithmetic"}, "initial": "initial", "method": "oreo-lora-trunk", "seed": 0}
    train_and_test(tmp_path / "run", settings={}, sampling=SAMPLING, test={"split": split}, **given)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == left


def test_a_rate_at_which_training_stops_is_not_chosen_and_a_compared_run_says_so(tmp_path, monkeypatch):
    def stops(*given):
        raise NotFiniteError("V is not finite on prompt 3; training stopped", "step 7")

    monkeypatch.setattr(compare_runs, "train_and_save", stops)
    monkeypatch.setattr(compare_runs, "load_episodes", lambda folder: [])
    monkeypatch.setattr(compare_runs, "load_tokenizer", lambda folder: None)
    given = {"task": {"name": "arithmetic"}, "initial": "initial", "method": "oreo", "seed": 0, "sampling": SAMPLING}
    settings = {"learning_rate": 0.1, "max_steps": 1}
    for split in ("validation", "test"):
        test = {"split": split, "prompts": 1, "searches": ["greedy"]}
        if split == "test":
            with pytest.raises(NotFiniteError):
                train_and_test(tmp_path / "run", settings=settings, test=test, **given)
        else:
            found = train_and_test(tmp_path / "run", settings=settings, test=test, **given)
    (row,) = found["rows"]
    assert (row["accuracy"], row["stopped"]) == (0.0, "step 7: V is not finite on prompt 3")

    trained = {name: number for name, number in row.items() if name != "stopped"}

    def run(label, runs):
        return [{"rows": [row if "lr0.1" in run.folder.name else trained]} for run in runs]

    (tmp_path / "out").mkdir()
    config = CompareConfig(
        output_dir=str(tmp_path / "out"), task="arithmetic", methods=["oreo"], learning_rates=[0.1, 0.5]
    )
    comparison = Comparison(config)
    monkeypatch.setattr(comparison, "run", run)
    assert choose_rates(comparison) == {"oreo": 0.5}  # as many right, none, and a larger rate
    monkeypatch.setattr(comparison, "run", lambda label, runs: [{"rows": [row]} for _ in runs])
    with pytest.raises(InputError, match=r"oreo learns at none of these rates; at 0.1 step 7: V is not finite"):
        choose_rates(comparison)


@pytest.mark.long
@pytest.mark.parametrize("task", ["arithmetic", "chain"])
def test_cheaper_steps_have_the_losses_of_plain_ones(task, tmp_path, monkeypatch):
    """On an embedded task, from the same start: the first steps, with and without what makes them cheaper."""
    monkeypatch.setattr(initial_policy, "ModelSize", lambda: ModelSize(32, 64, 3, 2))
    test = {"split": "test", "prompts": 8, "searches": ["greedy"]}
    scratch, sampled = {"demonstrations": 500, "steps": 30}, {"prompts": 12, "samples": 4}
    make_initial(tmp_path / "sft", {"name": task}, 0, scratch, sampled, SAMPLING, test)
    episodes = list(load_episodes(tmp_path / "sft" / "episodes"))
    shutil.rmtree(tmp_path / "sft" / "episodes")  # so young a policy is never right, and all losses would be zero
    append_episodes(tmp_path / "sft" / "episodes", [replace(e, reward=float(k % 2)) for k, e in enumerate(episodes)])
    settings = {"max_steps": 5, "logging_steps": 1, "warmup_steps": 0, "learning_rate": 1e-3}
    settings["per_device_train_batch_size"] = 8
    cheap = {"precompute_ref_log_probs": True, "head": "fused"}

    def losses(name, **more):
        result = train_and_test(tmp_path / name, {"name": task}, "sft", "oreo", 0, {**settings, **more}, SAMPLING, test)
        return [row["loss"] for row in result["curve"] if "loss" in row]

    plain = losses("plain", head="naive")
    assert losses("cheap", **cheap) == pytest.approx(plain, rel=1e-5)
    together = losses("together", share_prompts=True, **cheap)
    frozen = losses("frozen", share_prompts=True, train_layers=2)
    monkeypatch.setattr(first_use, "shares_prefixes", lambda body: False)  # the same batches, each row with its prompt
    assert losses("apart", share_prompts=True, head="naive") == pytest.approx(together, rel=1e-5)
    assert losses("frozen, apart", share_prompts=True, train_layers=2) == pytest.approx(frozen, rel=1e-5)
    assert len(plain) == 5
    assert plain[0] != together[0]
