"""Collecting, resuming, training and evaluating through the command line, at toy size."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from stepcredit.cli import main
from stepcredit.engines.engine import Request, SamplingParams
from stepcredit.engines.scripted import ScriptedEngine
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.store import load_episodes
from stepcredit.evaluation.rows import measure
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.rollouts import work_units
from stepcredit.rollouts.collect import CollectConfig, collect
from stepcredit.rollouts.single_turn import sample_and_grade
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.arithmetic import Arithmetic, work
from stepcredit.verdict import Verdict

TASK = Arithmetic()


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A folder with an untrained policy and its tokenizer."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = TASK.tokenizer()
    policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def shards(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("episodes-*.parquet"))}


def config(policy, out, **given):
    return CollectConfig(
        **{"task": "arithmetic", "model": policy, "output_dir": str(out), "limit": 6, "num_generations": 2, **given}
    )


def test_an_interrupted_collection_goes_on_and_ends_as_if_it_had_not_been(policy, tmp_path, monkeypatch):
    monkeypatch.setattr("stepcredit.rollouts.work_units.UNIT_ROWS", 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert collect(config(policy, whole))["responses"] == 12
    assert len(shards(whole)) == 3

    written = work_units.append_episodes
    calls = []

    def dies_at_the_third(folder, episodes, unit=None):
        calls.extend([1] if unit else [])
        if unit and len(calls) == 3:
            raise KeyboardInterrupt
        return written(folder, episodes, unit)

    monkeypatch.setattr(work_units, "append_episodes", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        collect(config(policy, broken))
    assert len(shards(broken)) == 2
    monkeypatch.setattr(work_units, "append_episodes", written)
    assert collect(config(policy, broken, batch_size=3))["units_resumed"] == 2
    assert shards(broken).keys() == shards(whole).keys()
    ids = [[e.tokens.ids.tolist() for e in load_episodes(f)] for f in (whole, broken)]
    assert ids[0] == ids[1]
    assert collect(config(policy, broken))["units_resumed"] == 3


def test_a_folder_made_otherwise_is_refused(policy, tmp_path, capsys):
    collect(config(policy, tmp_path / "e"))
    assert (
        main(["collect", "--task", "arithmetic", "--model", policy, "--output_dir", str(tmp_path / "e"), "--seed", "1"])
        == 2
    )
    assert (
        "was collected with another limit, num_generations, seed; choose another --output_dir"
        in capsys.readouterr().err
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    assert main(["collect", "--task", "arithmetic", "--model", policy, "--output_dir", str(tmp_path / "full")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_sampled_ids_are_what_the_episode_keeps(policy, tmp_path):
    collect(config(policy, tmp_path / "e", max_new_tokens=5))
    tokenizer = TASK.tokenizer()
    for episode in load_episodes(tmp_path / "e"):
        prompt = tokenizer(episode.prompt)["input_ids"]
        assert episode.tokens.ids[: len(prompt)].tolist() == prompt
        assert episode.tokens.action_mask.tolist() == [False] * len(prompt) + [True] * (
            len(episode.tokens) - len(prompt)
        )
        if episode.truncated:
            assert (episode.reward, episode.verdict) == (None, None)
            assert len(episode.tokens) == len(prompt) + 5
        assert (episode.tokens.behavior_log_prob[len(prompt) :] < 0).all()


def scripted(texts):
    tokenizer = TASK.tokenizer()

    def script(request: Request):
        return [*tokenizer(texts[request.prompt_id])["input_ids"], tokenizer.eos_token_id]

    return ScriptedEngine(script, tokenizer)


def worked(problem):
    """A careful response to a problem."""
    groups = [[int(d) for d in part.split()] for part in problem.prompt.removeprefix("digits").split("|")]
    lines = [f"work even{work(g)} so {a}\n" for g, a in zip(groups, problem.answer.split())]
    return "".join(lines) + f"answer {problem.answer}"


def test_verdicts_truncation_and_cost_in_a_row():
    problems = TASK.problems("test", 4)
    right, wrong, cut, rambling = problems
    other = "odd" if wrong.answer.startswith("even") else "even"
    texts = {
        right.prompt_id: worked(right),
        wrong.prompt_id: f"answer {other}{wrong.answer[len(wrong.answer.split()[0]) :]}",
        cut.prompt_id: "work" * 50,
        rambling.prompt_id: "guess",
    }
    engine = scripted(texts)
    row, episodes = measure(
        TASK, problems, engine, SearchSpec("greedy", 1, SamplingParams(40)), {"task": "t", "method": "x"}
    )
    assert [e.verdict for e in episodes] == [Verdict.RIGHT, Verdict.WRONG, None, Verdict.WRONG]
    assert episodes[2].stop_reason is StopReason.LENGTH
    assert (row.accuracy, row.truncated, row.undecided, row.n) == (0.25, 1, 0, 4)
    assert row.stderr == pytest.approx(0.25, abs=1e-6)
    assert row.tokens_generated == (3 * 11 + 5) + 5 + 40 + 2


def test_an_engine_that_dies_is_an_error_and_not_a_wrong_answer():
    def dead(request):
        raise ConnectionError("engine is gone")

    with pytest.raises(ConnectionError):
        sample_and_grade(TASK, TASK.problems("test", 1), ScriptedEngine(dead, TASK.tokenizer()), 1, SamplingParams(8))


def test_collect_train_evaluate_from_the_command_line(policy, tmp_path, capsys):
    out = tmp_path / "oreo"
    episodes = tmp_path / "episodes"
    from stepcredit.episodes.store import append_episodes

    append_episodes(episodes, TASK.demonstrations(40, 0))
    yaml = tmp_path / "oreo.yaml"
    yaml.write_text(f"method: oreo\nmodel: {policy}\nepisodes: {episodes}\nmax_steps: 10\nbeta: 0.5\nuse_cpu: true\n")
    common = ["--save_strategy", "no", "--per_device_train_batch_size", "4"]
    assert main(["train", "--config", str(yaml), "--output_dir", str(out), "--beta", "0.25", *common]) == 0
    assert json.loads((out / "training_args.json").read_text())["beta"] == 0.25
    assert json.loads((out / "run.json").read_text())["data"]["episodes"] == 40
    assert len(json.loads((out / "curves.json").read_text())["oreo"]) == 1
    results = tmp_path / "results"
    flags = [
        "--task",
        "arithmetic",
        "--model",
        str(out / "policy"),
        "--value_model",
        str(out / "value"),
        "--limit",
        "5",
    ]
    assert (
        main(
            [
                "evaluate",
                *flags,
                "--output_dir",
                str(results),
                "--search",
                "sample",
                "--num_generations",
                "3",
                "--max_new_tokens",
                "9",
            ]
        )
        == 0
    )
    (row,) = json.loads((results / "results.json").read_text())
    assert (row["n"], row["width"], row["search"], row["method"]) == (5, 3, "sample", "policy")
    assert len(load_episodes(results / "responses" / "policy-test-sample-seed0-sample3")) == 15
    assert "seconds" not in row
    assert json.loads((results / "timings.json").read_text())[0]["phase"] == "generate"


def test_two_runs_of_one_seed_are_equal_and_seeds_differ(policy, tmp_path):
    torch.manual_seed(1)
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        collect(config(policy, tmp_path / name, seed=seed))
        found.append(shards(tmp_path / name))
    assert found[0] == found[1] != found[2]


def test_a_policy_that_was_trained_again_is_another_one(policy, tmp_path, capsys):
    """Under the same name, too: what was sampled from the one before is not taken for its own."""
    here = tmp_path / "policy"
    shutil.copytree(policy, here)
    given = ["--task", "arithmetic", "--model", str(here), "--limit", "4", "--max_new_tokens", "4"]
    commands = {
        "episodes": ["collect", *given, "--num_generations", "2", "--output_dir", str(tmp_path / "episodes")],
        "results": ["evaluate", *given, "--output_dir", str(tmp_path / "results")],
    }
    assert [main(command) for command in commands.values()] == [0, 0]
    weights = load_file(here / "model.safetensors")
    save_file({name: tensor * 1.1 for name, tensor in weights.items()}, here / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    for command, instead in zip(
        commands.values(), ("output_dir", "output_dir, or name this policy apart with --method")
    ):
        assert main(command) == 2
        said = f"was collected with another content of the model; choose another --{instead}"
        assert said in capsys.readouterr().err
    assert main([*commands["results"], "--method", "again"]) == 0
