"""GSM8K and MATH through collect and evaluate: solutions as demonstrations, strict and lenient, groups, resuming."""

import json

import pytest

from doubles.tokenizers import byte_tokenizer
from stepcredit.cli import main
from stepcredit.engines.engine import Request, SamplingParams
from stepcredit.engines.scripted import ScriptedEngine
from stepcredit.episodes.encoding import tokenise
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.store import load_episodes
from stepcredit.evaluation.breakdown import at_k, group_rows, reading_rows
from stepcredit.evaluation.rows import measure
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.grading.grader import shared_grader
from stepcredit.rollouts import work_units
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.gsm8k import GSM8K
from stepcredit.tasks.math import MATH
from stepcredit.verdict import Verdict

QUESTIONS = [
    {"question": f"What is {n} + {n}?", "answer": f"It is {n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}"}
    for n in range(1, 7)
]
PROBLEMS = [
    {"problem": "Half of 1?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "Level 1", "type": "Algebra"},
    {"problem": "The root of 2?", "solution": "It is $\\boxed{\\sqrt{2}}$.", "level": "Level 1", "type": "Geometry"},
    {"problem": "Twice x?", "solution": "It is $\\boxed{2x}$.", "level": "Level 2", "type": "Algebra"},
]

ABOUT = {"task": "math", "method": "m"}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def gsm8k(tmp_path):
    return lines(tmp_path / "gsm8k.jsonl", QUESTIONS)


@pytest.fixture
def policy(tmp_path):
    """A folder with an untrained policy and its tokenizer."""
    tokenizer = byte_tokenizer()
    policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return str(tmp_path / "policy")


def scripted(texts):
    """An engine that gives the k-th text of a prompt to its k-th sample."""
    tokenizer = byte_tokenizer()

    def script(request: Request):
        return [*tokenizer(texts[request.prompt_id][request.sample])["input_ids"], tokenizer.eos_token_id]

    return ScriptedEngine(script, tokenizer)


def test_worked_solutions_become_demonstrations(gsm8k, tmp_path):
    for style, prompt, completion in (
        ("plain", "Question: What is 1 + 1?\nAnswer:", " It is 1+1=2.\n#### 2"),
        ("qwen-math", None, [{"role": "assistant", "content": "It is 1+1=2.\n#### 2"}]),
    ):
        flags = ["--task", "gsm8k", "--data", gsm8k, "--prompt_style", style, "--model", "solutions"]
        out = tmp_path / style
        assert main(["collect", *flags, "--output_dir", str(out)]) == 0
        episodes = load_episodes(out)
        assert len(episodes) == 6
        first = episodes[0]
        assert prompt is None or first.prompt == prompt
        assert first.completion == completion
        assert (first.reward, first.verdict, first.stop_reason) == (1.0, Verdict.RIGHT, StopReason.STOP)
        tokens = tokenise(first, byte_tokenizer())
        written = bytes(t for t in tokens.ids[tokens.action_mask].tolist() if t < 256).decode()
        assert written.strip() == "It is 1+1=2.\n#### 2"
        assert main(["collect", *flags, "--output_dir", str(out)]) == 0
        assert len(load_episodes(out)) == 6


def test_a_generated_task_has_no_solutions_and_takes_no_data(tmp_path, capsys):
    assert main(["collect", "--task", "chain", "--model", "solutions", "--output_dir", str(tmp_path / "e")]) == 2
    assert "has no worked solution" in capsys.readouterr().err
    flags = ["--model", "p", "--output_dir", str(tmp_path / "e")]
    assert main(["collect", "--task", "chain", "--data", "x.jsonl", *flags]) == 2
    assert "not supported by chain, which generates its problems" in capsys.readouterr().err


def test_strict_lenient_truncated_and_undecided_in_a_row(gsm8k, monkeypatch):
    task = GSM8K(gsm8k, "plain")
    problems = task.problems("train")
    texts = dict(zip([p.prompt_id for p in problems], [
        [" 1+1=2\n#### 2"], [" so it is 4."], ["#### 7"], ["x" * 90], [" 1e99999999"], ["no"],
    ]))  # fmt: skip
    engine = scripted(texts)
    monkeypatch.setattr(shared_grader(), "_seconds", 0.2)
    row, episodes = measure(task, problems, engine, SearchSpec("greedy", 1, SamplingParams(60)), ABOUT)
    assert [str(e.verdict) for e in episodes] == ["right", "right", "wrong", "None", str(episodes[4].verdict), "wrong"]
    assert (row.accuracy, row.accuracy_strict) == (pytest.approx(2 / 6, abs=1e-6), pytest.approx(1 / 6, abs=1e-6))
    assert row.truncated == 1
    assert episodes[4].verdict is not Verdict.RIGHT
    assert episodes[4].reward in (None, 0.0)
    said = list(reading_rows(episodes))
    assert [r["verdict"] for r in said][:4] == ["right", "right", "wrong", "truncated"]
    assert said[1] == {
        "prompt_id": "gsm8k-train-1", "sample": 0, "verdict": "right", "strict": False, "extracted": "4",
        "answer": "4", "prompt": "Question: What is 2 + 2?\nAnswer:", "response": " so it is 4.",
    }  # fmt: skip


def test_levels_types_pass_and_majority(tmp_path):
    task = MATH(lines(tmp_path / "math.jsonl", PROBLEMS), "qwen-math")
    problems = task.problems("test")
    texts = dict(zip([p.prompt_id for p in problems], [
        ["\\boxed{0.5}", "\\boxed{\\frac12}", "\\boxed{2}", "\\boxed{2.0}"],
        ["\\boxed{\\frac{2}{\\sqrt{2}}}", "\\boxed{1}", "\\boxed{1}", "\\boxed{1}"],
        ["so $2x$", "no", "no", "so $2 x$"],
    ]))  # fmt: skip
    engine = scripted(texts)
    row, episodes = measure(task, problems, engine, SearchSpec("sample", 4, SamplingParams(60)), ABOUT)
    assert episodes[0].prompt[1]["content"] == "Half of 1?"
    assert row.accuracy == pytest.approx(5 / 12, abs=1e-6)
    assert row.accuracy_strict == pytest.approx(3 / 12, abs=1e-6)
    assert [(r.k, r.pass_, r.majority) for r in row.at_k] == [
        (1, pytest.approx(5 / 12, abs=1e-6), pytest.approx(5 / 12, abs=1e-6)),
        (2, pytest.approx((5 / 6 + 1 / 2 + 5 / 6) / 3, abs=1e-6), pytest.approx((0.5 + 0.5 + 1) / 3, abs=1e-6)),
        (4, 1.0, pytest.approx(2 / 3, abs=1e-6)),
    ]
    rows = group_rows(episodes, problems, ABOUT)
    assert [(r.by, r.group, r.n, r.accuracy) for r in rows] == [
        ("level", 1, 2, 0.375), ("level", 2, 1, 0.5), ("type", "Algebra", 2, 0.5), ("type", "Geometry", 1, 0.25),
    ]  # fmt: skip
    assert at_k(episodes, 1) == row.at_k[:1]


def test_evaluate_goes_on_where_it_stopped(gsm8k, policy, tmp_path, monkeypatch, capsys):
    def run(out, *more):
        flags = ["--task", "gsm8k", "--data", gsm8k, "--split", "train", "--prompt_style", "plain", "--model", policy]
        sampled = ["--max_new_tokens", "4", "--search", "sample", "--num_generations", "2"]
        return main(["evaluate", *flags, *sampled, "--output_dir", str(out), *more])

    monkeypatch.setattr("stepcredit.rollouts.work_units.UNIT_ROWS", 4)
    assert run(tmp_path / "whole") == 0
    written, calls = work_units.append_episodes, []

    def dies_at_the_third(folder, episodes, unit=None):
        calls.extend([1] if unit else [])
        if unit and len(calls) == 3:
            raise KeyboardInterrupt
        return written(folder, episodes, unit)

    monkeypatch.setattr(work_units, "append_episodes", dies_at_the_third)
    assert run(tmp_path / "broken") == 130
    assert not (tmp_path / "broken" / "results.json").exists()
    assert run(tmp_path / "broken", "--batch_size", "3") == 0
    assert len(calls) == 4
    for file in ("results.json", "responses/policy-train-sample-seed0-sample2.jsonl"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    (row,) = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert row["source_versions"]["train"].startswith("sha256:")
    assert (row["prompt_style"], row["n"], len(row["at_k"])) == ("plain", 6, 2)
    capsys.readouterr()
    assert run(tmp_path / "whole", "--max_new_tokens", "3") == 2
    assert "was collected with another max_new_tokens; choose another --output_dir" in capsys.readouterr().err
