"""`stepcredit credit`: a folder of episodes and saved models in, lines and a page out."""

import json

import pytest
import torch

from doubles.real import smollm2_folder
from stepcredit.cli import main
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.store import append_episodes
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.files import write_json
from stepcredit.models.loading import load_policy, load_tokenizer, value_model_from
from stepcredit.models.states import ValueStates
from stepcredit.tasks.arithmetic import Arithmetic

TASK = Arithmetic()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Episodes of the embedded task, two policies, and value models of two levels."""
    root, tokenizer = tmp_path_factory.mktemp("credit"), TASK.tokenizer()
    for name, seed in (("pi", 1), ("ref", 2)):
        policy = policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed)
        policy.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    for name, level, delimiters in (
        ("token", "token", ("\n",)),
        ("step", "step", ("\n",)),
        ("other", "step", (" so",)),
    ):
        value = value_model_from(policy)
        torch.nn.init.normal_(value.score.weight)
        ValueStates(level, delimiters, None).describe(value.config)
        value.save_pretrained(root / name / "value")
        tokenizer.save_pretrained(root / name / "value")
    said = "work even 7 so odd\nwork odd 2 so odd\nanswer odd odd"
    prompts = [p.prompt for p in TASK.problems("test", 3)]
    episodes = [
        Episode(
            prompt=prompt,
            completion=said,
            reward=float(k == 1),
            prompt_id=f"t{i}",
            sample=k,
            stop_reason=StopReason.STOP,
        )
        for i, prompt in enumerate(prompts)
        for k in range(2)
    ]
    append_episodes(root / "episodes", episodes)
    write_json(root / "episodes" / "collect.json", {"task": "arithmetic", "step_delimiters": ["\n"]})
    return root


def credit(folder, out, *flags, values=("token",)):
    return main(
        ["credit", "--episodes", str(folder / "episodes"), "--output_dir", str(out), "--value_model"]
        + [str(folder / value / "value") for value in values]
        + [*map(str, flags)]
    )


def rows_of(out):
    return [json.loads(line) for line in (out / "credit.jsonl").read_text().splitlines()]


def test_two_value_models_and_two_policies_side_by_side(folder, tmp_path, capsys):
    code = credit(folder, tmp_path, "--model", folder / "pi", "--ref_model", folder / "ref", values=("token", "step"))
    assert code == 0
    assert capsys.readouterr().out == f"{tmp_path / 'credit.html'}: 6 responses; open it in a browser\n"
    run, *rows = rows_of(tmp_path)
    assert (run["value_models"], run["levels"], run["total"]) == (["token", "step"], ["token", "step"], 6)
    heads = [row for row in rows if row["line"] == "episode"]
    assert [(r["episode"], r["source"], r["prompt_id"], r["sample"], r["verdict"]) for r in heads] == [
        (k, "arithmetic", f"t{k // 2}", k % 2, ["wrong", "right"][k % 2]) for k in range(6)
    ]
    tokens = [row for row in rows if row["line"] == "token"]
    assert all(t["value"][0] is not None and t["log_ratio"] is not None and t["kl"] >= 0 for t in tokens)
    assert sum(t["value"][1] is not None for t in tokens) == 6 * 4  # the starts of three lines and the end
    assert (tmp_path / "credit.html").read_text().startswith("<!DOCTYPE html>")


def test_the_limit_is_on_prompts_and_the_file_says_how_many_there_are(folder, tmp_path):
    assert credit(folder, tmp_path, "--limit", 1) == 0
    run, *rows = rows_of(tmp_path)
    assert run["total"] == 6
    assert [r["sample"] for r in rows if r["line"] == "episode"] == [0, 1]


def test_the_same_command_writes_the_same_files(folder, tmp_path):
    files = []
    for k in (1, 2):
        assert credit(folder, tmp_path / str(k)) == 0
        files.append([(tmp_path / str(k) / name).read_bytes() for name in ("credit.jsonl", "credit.html")])
    assert files[0] == files[1]


def test_a_page_that_is_there_is_written_anew_only_where_that_is_said(folder, tmp_path, capsys):
    assert credit(folder, tmp_path, "--limit", 1) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert credit(folder, tmp_path) == 2
    assert "credit.jsonl: is there already; choose another --output_dir, or --overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert credit(folder, tmp_path, "--overwrite") == 0
    assert len([row for row in rows_of(tmp_path) if row["line"] == "episode"]) == 6


def test_graded_rewards_and_columns_of_the_logs(folder, tmp_path):
    said = "work even 7 so odd\nanswer odd"
    for r in (1, 5):
        about = {"prompt_id": "p", "sample": r, "metadata": {"id": f"row{r}"}}
        append_episodes(
            tmp_path / "some" / "episodes",
            [Episode(prompt="digits 1", completion=said, reward=float(r), **about)],
        )
    (tmp_path / "some" / "token").symlink_to(folder / "token")
    assert credit(tmp_path / "some", tmp_path / "out", "--reward_threshold", 4) == 0
    heads = [row for row in rows_of(tmp_path / "out") if row["line"] == "episode"]
    assert [(r["verdict"], r["metadata"]) for r in heads] == [("wrong", {"id": "row1"}), ("right", {"id": "row5"})]


def test_responses_that_cannot_be_encoded_are_left_out_and_named(folder, tmp_path, capsys):
    bad = Episode(prompt="digits 1", completion="no such words\n", reward=0.0, prompt_id="bad")
    good = Episode(prompt="digits 1", completion="answer odd", reward=None, prompt_id="good")
    append_episodes(tmp_path / "some" / "episodes", [bad, good])
    (tmp_path / "some" / "token").symlink_to(folder / "token")
    assert credit(tmp_path / "some", tmp_path / "out") == 0
    assert "1 responses cannot be encoded; the first: prompt bad, sample 0: " in capsys.readouterr().out
    assert [(r["prompt_id"], r["verdict"]) for r in rows_of(tmp_path / "out") if r["line"] == "episode"] == [
        ("good", "undecided")
    ]
    append_episodes(tmp_path / "none" / "episodes", [bad])
    (tmp_path / "none" / "token").symlink_to(folder / "token")
    assert credit(tmp_path / "none", tmp_path / "empty") == 2
    assert "no response can be encoded; the first: prompt bad" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize(
    ("flags", "values", "message"),
    [
        (["--model", "pi"], ["token"], "ref_model: log-ratios and KL need --model and --ref_model"),
        ([], ["token", "token"], "value_model: is given twice"),
        ([], ["step", "other"], "value_model other: was trained on other steps than step"),
        (
            ["--step_delimiters", "so"],
            ["step"],
            "step_delimiters: step/value was trained on steps that end after ['\\n']",
        ),
        ([], ["none"], "none/value"),
        (["--limit", "0"], ["token"], "limit: 0 must be 1 or more"),
    ],
)
def test_bad_settings_are_one_line_and_write_nothing(folder, tmp_path, capsys, flags, values, message):
    assert credit(folder, tmp_path / "out", *flags, values=values) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_real_model_and_its_tokenizer(tmp_path):
    policy = load_policy(str(smollm2_folder()))
    value = value_model_from(policy)
    torch.nn.init.normal_(value.score.weight, 0, 0.02)
    value.save_pretrained(tmp_path / "model" / "value")
    load_tokenizer(str(smollm2_folder())).save_pretrained(tmp_path / "model" / "value")
    del policy, value
    said = "She has 3 * 4 = 13 eggs – über «all».\n13 - 1 = 12\n#### 12"
    append_episodes(
        tmp_path / "episodes", [Episode(prompt="Question: eggs?\nAnswer:", completion=said, reward=0.0, prompt_id="e")]
    )
    assert credit(tmp_path, tmp_path / "out", values=["model"]) == 0
    steps = [row for row in rows_of(tmp_path / "out") if row["line"] == "step"]
    assert "".join(s["text"] for s in steps if not s["end"]) == said
    assert [s["false_equation"] for s in steps] == [True, False, False, False]
    assert all(v is not None for s in steps[:-1] for v in s["value"])
