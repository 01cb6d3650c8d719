"""reasoning-gym's datasets as tasks: problems, splits, settings, the answer of a response, verdicts, the whole loop."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from stepcredit.cli import main
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.tasks.gym import gym_task
from stepcredit.tasks.gym.gym_task import ReasoningGym, answer_of
from stepcredit.tasks.prompts import ASK_BOXED, ASK_HASHES, ASK_TAGS
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.task import Problem
from stepcredit.verdict import Verdict

pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")

SUMS = "chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1"
SPLITS = ("train", "validation", "test")


def gym(given, style="plain"):
    return load_task(f"reasoning-gym:{given}", prompt_style=style)


def texts(problems):
    return [problem.text for problem in problems]


def test_a_problem_in_full():
    problem, *_ = gym("gsm_symbolic").problems("test", 2)
    assert problem.prompt_id == "gsm_symbolic-0-16"
    assert problem.text.startswith("Question: David has a plant stand at the town square.")
    assert problem.text.endswith("Give the result as your final answer. Do not include units.\nAnswer:")
    assert problem.answer == "358"
    assert problem.solution.startswith(" David will round his roses up from £1.56 to £2")
    assert problem.solution.endswith("£22 + £90 + £246 = £358\n#### 358")
    assert problem.metadata == {"template": 92}


def test_the_version_is_that_of_the_package_and_of_the_adapter():
    task = gym(SUMS)
    assert (task.name, task.version) == (f"reasoning-gym:{SUMS}", "1 (reasoning-gym 0.1.25)")
    assert task.source_versions == {}


@pytest.mark.parametrize("given", ["gsm_symbolic", "coin_flip", "isomorphic_strings", "list_functions"])
def test_no_text_repeats_within_a_split_or_across_splits_of_any_seeds(given):
    task = gym(given)
    drawn = [texts(task.problems(split, 20, seed)) for seed, split in enumerate(SPLITS)]
    for problems in drawn:
        assert len(set(problems)) == 20
    assert len({text for problems in drawn for text in problems}) == 60


def test_the_first_problems_are_the_same_whatever_the_count():
    task = gym("gsm_symbolic")
    assert task.problems("train", 1300)[:40] == task.problems("train", 40)
    assert task.problems("train", 40, seed=1) != task.problems("train", 40)


DRAW = """
from stepcredit.tasks.registry import load_task
for name in ("list_functions", "isomorphic_strings", "polynomial_multiplication", "pool_matrix"):
    print([p.prompt[-1]["content"] for p in load_task(f"reasoning-gym:{name}").problems("train", 80)])
"""


def test_another_process_draws_the_same_problems():
    """With other hashes of text, and with generators that use the global randomness."""
    said = {
        subprocess.run(
            [sys.executable, "-c", DRAW], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


def test_a_split_with_fewer_problems():
    task = gym(SUMS)
    everything = task.problems("test")
    assert 5 < len(everything) == len(set(texts(everything))) < 60
    with pytest.raises(InputError, match=rf"^limit: 900 problems were asked for; .* none besides {len(everything)} in"):
        task.problems("test", 900)
    with pytest.raises(InputError, match="no split 'tset'; there is train, validation, test"):
        task.problems("tset")


def test_settings_reach_the_generator_and_the_ids():
    given = "basic_arithmetic:operators=['+'],min_terms=2,max_terms=2"
    problems = gym(given).problems("train", 20)
    assert [text for text in texts(problems) if not re.search(r"\d \+ -?\d", text)] == []
    (start,) = {problem.prompt_id.rsplit("-", 2)[0] for problem in problems}
    assert start.startswith("basic_arithmetic~")
    with pytest.raises(InputError, match=rf"problem {start}-0-.*is no problem of reasoning-gym:basic_arithmetic$"):
        gym("basic_arithmetic").grade(problems[0], "#### 4")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gsm_symbolik", "task: no dataset 'gsm_symbolik'; did you mean gsm_symbolic?"),
        ("", "task: no dataset ''; there is ab, acre, .*zebra_puzzles"),
        ("composite", "task: no dataset 'composite'"),
        ("chain_sum:min_trems=2", "chain_sum has no setting 'min_trems'; did you mean min_terms?.*max_digits"),
        ("chain_sum:seed=2", "chain_sum has no setting 'seed'"),
        ("chain_sum:size=2", "chain_sum has no setting 'size'"),
        (
            "chain_sum:min_terms=9,max_terms=3",
            "chain_sum refuses the settings 'min_terms=9, max_terms=3': max_terms must be >= min_terms",
        ),
        ("chain_sum:min_terms=few", "chain_sum refuses the settings 'min_terms=few': .*'str' and 'int'"),
        ("gsm_symbolic:difficulty=0.5", "gsm_symbolic refuses the settings 'difficulty=0.5': AssertionError"),
        ("chain_sum:", "'': give settings as setting=value"),
        ("chain_sum:min_terms", "'min_terms': give settings as setting=value,setting=value"),
        ("chain_sum:min_terms=[1", "a value is not YAML"),
        ("chain_sum:min_terms=2020-01-01", "a value is not YAML"),
        ("chain_sum:min_terms=!!python/object/apply:os.getcwd []", "a value is not YAML"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(InputError, match=message) as error:
        gym(given)
    assert "\n" not in str(error.value)


def test_settings_that_take_too_long_are_refused(monkeypatch):
    monkeypatch.setattr(gym_task, "CHECK_SECONDS", 0.3)
    with pytest.raises(InputError, match="a problem of chain_sum with these settings took too long"):
        gym("chain_sum:max_digits=999999999")


def test_data_and_unknown_styles_are_refused():
    with pytest.raises(InputError, match=r"^data: not supported by reasoning-gym:ab"):
        load_task("reasoning-gym:ab", data="x.jsonl")
    with pytest.raises(InputError, match=r"no prompt style 'lm-eval'; there is answer-tags, qwen-math"):
        gym("ab", "lm-eval")
    with pytest.raises(InputError, match=r"unknown task 'reasoning'; choose from .*reasoning-gym:NAME"):
        load_task("reasoning")


def test_without_the_package_the_line_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"reasoning-gym: needs the extra: pip install 'stepcredit\[reasoning-gym\]'"):
        ReasoningGym("ab")


@pytest.mark.parametrize(
    ("style", "asks", "end"),
    [
        ("answer-tags", ASK_TAGS, "\n<answer>358</answer>"),
        ("qwen-math", ASK_HASHES, "\n#### 358"),
        ("qwen-boxed", ASK_BOXED, "\nThe answer is \\boxed{358}."),
        ("deepseek-math", ASK_BOXED, "\nThe answer is \\boxed{358}."),
    ],
)
def test_chat_styles_ask_for_what_their_solutions_end_in(style, asks, end):
    task = gym("gsm_symbolic", style)
    (problem,) = task.problems("test", 1)
    assert any(asks in message["content"] for message in problem.prompt)
    assert problem.solution.endswith(f"= £358{end}")
    grade = task.grade(problem, problem.solution)
    assert (grade.verdict, grade.extracted, grade.strict) == (Verdict.RIGHT, "358", True)


@pytest.mark.parametrize(
    ("response", "answer", "place"),
    [
        ("so\n<answer>\n1 0\n0 1\n</answer> done", "1 0\n0 1", "tags"),
        ("<answer>1</answer> no: <answer>2</answer>", "2", "tags"),
        ("<answer>1 <answer>2</answer>", "2", "tags"),
        ("<answer>\\boxed{x}</answer>", "x", "tags"),
        ("<answer>#.#\n####</answer>", "#.#\n####", "tags"),
        ("<answer></answer>", "", "tags"),
        ("\\boxed{4} and\n#### 5", "5", "hashes"),
        ("#### 5 is in \\boxed{\\frac{1}{2}} so", "\\frac{1}{2}", "boxed"),
        ("#### 5\nI hope that this helps", "5", "hashes"),
        ("####\n1 0\n0 1", "1 0\n0 1", "hashes"),
        ("Let us see.\n\n The end is 7 \n", "The end is 7", "line"),
        ("<answer>7", "<answer>7", "line"),
        (" \n ", "", "line"),
    ],
)
def test_the_answer_of_a_response(response, answer, place):
    assert answer_of(response) == (answer, place)


def test_verdicts():
    task = gym("gsm_symbolic")
    (problem,) = task.problems("test", 1)
    graded = {
        response: task.grade(problem, response)
        for response in ("#### 358", "It is 358", "358.0", "#### 359", "#### many", " ")
    }
    assert [grade.verdict for grade in graded.values()] == [Verdict.RIGHT] * 3 + [Verdict.WRONG] * 3
    assert [grade.strict for grade in graded.values()] == [True, False, False, True, True, False]
    assert graded["#### 359"].reason == "the verifier's score is 0.01"
    assert (graded[" "].extracted, graded[" "].reason) == (None, "no answer")


def test_a_problem_is_graded_by_its_id_alone():
    (problem,) = gym("graph_color").problems("train", 1)
    assert problem.answer == ""
    stored = Problem(problem.prompt_id, "", "")
    vertices = {str(k): 1 for k in range(1, 30)}
    assert gym("graph_color").grade(stored, f"<answer>{json.dumps(vertices)}</answer>").verdict is Verdict.WRONG


def test_a_verifier_that_raises_is_undecided():
    task = gym("boxnet")
    (problem,) = task.problems("train", 1)
    grade = task.grade(problem, "#### 42")
    assert (grade.verdict, grade.reward) == (Verdict.UNDECIDED, None)
    assert grade.reason == "the verifier: TypeError: 'int' object is not iterable"


def test_a_verifier_that_does_not_end_is_undecided_and_the_next_one_is_not(monkeypatch):
    monkeypatch.setattr(gym_task, "VERIFIER_SECONDS", 0.5)
    task = gym("countdown")
    (problem,) = task.problems("train", 1)
    grade = task.grade(problem, "#### 9**9**9**9")
    assert (grade.verdict, grade.reason) == (Verdict.UNDECIDED, "the verifier: took too long")
    assert task.grade(problem, f"#### {problem.answer}").verdict is Verdict.RIGHT


def test_a_generator_that_does_not_end_is_one_line(monkeypatch):
    task = gym("knight_swap")
    monkeypatch.setattr(gym_task, "GENERATION_SECONDS", 0.01)
    with pytest.raises(InputError, match="reasoning-gym:knight_swap: the generator failed at entry 0: took too long"):
        task.problems("train", 1, seed=7)


def test_it_is_collected_trained_on_and_evaluated(tmp_path, byte_tokenizer, capsys):
    name, policy = f"reasoning-gym:{SUMS}", str(tmp_path / "policy")
    policy_from_scratch(byte_tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(policy)
    byte_tokenizer.save_pretrained(policy)
    asked = ["--task", name, "--model", policy, "--prompt_style", "plain", "--max_new_tokens", "6"]
    assert main(["collect", *asked, "--limit", "6", "--num_generations", "4", "--output_dir", str(tmp_path / "e")]) == 0
    train = ["train", "--method", "oreo", "--model", policy, "--episodes", str(tmp_path / "e"), "--max_steps", "1"]
    assert main([*train, "--output_dir", str(tmp_path / "out"), "--truncated", "zero", "--report_to", "none"]) == 0
    evaluate = [
        "evaluate",
        *asked,
        "--value_model",
        str(tmp_path / "out" / "value"),
        "--search",
        "beam",
        "--width",
        "2",
    ]
    assert main([*evaluate, "--split", "test", "--limit", "3", "--output_dir", str(tmp_path / "r")]) == 0
    (row,) = json.loads((tmp_path / "r" / "results.json").read_text())
    assert (row["task"], row["task_version"], row["n"]) == (name, "1 (reasoning-gym 0.1.25)", 3)
    assert len(load_episodes(tmp_path / "e")) == 24


def test_worked_solutions_are_collected(tmp_path, capsys):
    collect = ["collect", "--model", "solutions", "--prompt_style", "plain", "--limit", "5"]
    assert main([*collect, "--task", "reasoning-gym:gsm_symbolic", "--output_dir", str(tmp_path / "s")]) == 0
    for episode in load_episodes(tmp_path / "s"):
        assert episode.reward == 1.0
        assert episode.completion.endswith(f"\n#### {episode.metadata['answer']}")
    assert main([*collect, "--task", "reasoning-gym:ab", "--output_dir", str(tmp_path / "none")]) == 2
    assert "problem ab-0-1: has no worked solution" in capsys.readouterr().err
