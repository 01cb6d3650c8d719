"""An interactive task through the commands: conversations collected, trained on and searched, at toy size."""

import json
import re
from itertools import pairwise

import pytest
import torch

from stepcredit.cli import main
from stepcredit.engines.scripted import ScriptedEngine
from stepcredit.episodes.alignment import action_runs
from stepcredit.episodes.encoding import decode, plain_ids, prompt_ids
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.evaluation import evaluate as evaluating
from stepcredit.evaluation.evaluate import EvaluateConfig, evaluate
from stepcredit.experiments.initial_policy import small_run, train_and_save
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.models.loading import load_policy, load_tokenizer, value_model_from
from stepcredit.results.schema import written
from stepcredit.rollouts import multi_turn, work_units
from stepcredit.rollouts.collect import CollectConfig, collect
from stepcredit.rollouts.environment_workers import EnvironmentWorkers
from stepcredit.rollouts.local_environments import LocalEnvironments
from stepcredit.searching.scorers import FunctionScorer
from stepcredit.tasks.fetch import Fetch, FetchEnvironment, first_words
from stepcredit.training.configs import SFTConfig
from stepcredit.verdict import Verdict

TASK = Fetch()
CONVERSE = multi_turn.converse


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A policy of 3,000 parameters that has seen some demonstrations, in float64, and a random value model."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = TASK.tokenizer()
    policy = policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0)
    settings = small_run(folder / "sft", 0, max_steps=60, learning_rate=2e-2, disable_tqdm=True)
    train_and_save(policy, SFTConfig(**settings), TASK.demonstrations(1000, 0), tokenizer)
    value = value_model_from(policy)
    torch.manual_seed(0)
    value.score.weight.data.normal_(0, 1.0)
    for name, model in (("policy", policy.double()), ("value", value)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Environments in this process: workers take seconds to start. Where a test needs them it asks for `workers`."""
    monkeypatch.setattr(multi_turn, "EnvironmentWorkers", lambda make, workers: LocalEnvironments(make))


@pytest.fixture
def real_workers(here, monkeypatch):
    """What a run asks for: [how many workers]."""
    asked = []

    def made(make, workers):
        asked.append(workers)
        return EnvironmentWorkers(make, workers)

    monkeypatch.setattr(multi_turn, "EnvironmentWorkers", made)
    return asked


def collected(models, out, **given):
    config = {
        "task": "fetch",
        "model": str(models / "policy"),
        "output_dir": str(out),
        "limit": 4,
        "num_generations": 3,
        **given,
    }
    counts = collect(CollectConfig(**config))
    return list(load_episodes(out)), counts


def plain(episode):
    """All of an episode that must not depend on how it came about."""
    tokens = episode.tokens
    return {**vars(episode), "tokens": tokens and (tokens.ids.tolist(), tokens.action_mask.tolist())}


def shards(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("episodes-*.parquet"))}


def replies(episode):
    return [m["content"] for m in episode.completion if m["role"] == "assistant"]


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.startswith("stepcredit: error: ")
    assert said.count("\n") == 1
    return said


# ---- collect -----------------------------------------------------------------------------------------


def test_an_episode_is_the_conversation_whose_ids_were_sampled(models, tmp_path, real_workers, capsys):
    out, tokenizer = tmp_path / "e", load_tokenizer(str(models / "policy"))
    flags = ["--limit", "6", "--num_generations", "4", "--workers", "1", "--seed", "2", "--max_turns", "6"]
    assert (
        main(["collect", "--task", "fetch", "--model", str(models / "policy"), "--output_dir", str(out), *flags]) == 0
    )
    said = capsys.readouterr().out
    assert re.search(rf"^{out}: 6 prompts, 24 responses, 0 units_resumed, \d+ response tokens/s$", said, re.MULTILINE)
    assert real_workers == [1]
    problems = list(TASK.problems("train", 6, 2))
    episodes = list(load_episodes(out))
    assert [(e.prompt_id, e.sample) for e in episodes] == [(p.prompt_id, k) for p in problems for k in range(4)]
    assert {e.verdict for e in episodes} == {Verdict.RIGHT, Verdict.WRONG, None}
    for e, problem in zip(episodes, [p for p in problems for _ in range(4)]):
        game = FetchEnvironment()
        answers = [game.reset(problem), *(game.step(reply) for reply in replies(e))]
        assert e.is_chat
        assert e.prompt == [*problem.prompt, {"role": "user", "content": first_words(problem)}]
        seen = [m["content"] for m in e.completion if m["role"] == "user"]
        assert [m["role"] for m in e.completion] == (["assistant", "user"] * len(seen)) + ["assistant"]
        assert seen == [a.text for a in answers[1:-1]]
        assert not any(a.done for a in answers[:-1])
        assert e.truncated == (not answers[-1].done)
        assert e.reward == (None if e.truncated else answers[-1].reward)
        assert e.verdict is (None if e.truncated else Verdict.RIGHT if e.reward else Verdict.WRONG)
        assert e.metadata["turns"] == len(replies(e))
        assert (e.metadata["answer"], e.metadata["level"]) == (problem.answer, problem.metadata["level"])
        assert e.metadata["tokens_generated"] == e.tokens.action_mask.sum()
        assert e.metadata["tokens_scored"] == 0
        exact_ids(e, tokenizer)


def exact_ids(episode, tokenizer):
    """Sampled ids are actions, all others the prompt's and the observations' as the template writes them."""
    ids, runs = episode.tokens.ids.tolist(), action_runs(episode.tokens.action_mask)
    assert ids[: runs[0][0]] == prompt_ids(episode.prompt, tokenizer)
    for (start, stop), reply in zip(runs, replies(episode)):
        ended = [] if stop == len(ids) and episode.truncated and ids[-1] != tokenizer.eos_token_id else ["<eos>"]
        assert decode(ids[start:stop], tokenizer) == "".join([reply, *ended])
    for ((_, stop), (start, _)), seen in zip(pairwise(runs), episode.completion[1::2]):
        assert ids[stop:start] == plain_ids(f"<user>{seen['content']}<eos><assistant>", tokenizer)
    log_prob = episode.tokens.behavior_log_prob
    assert (log_prob[episode.tokens.action_mask] < 0).all()
    assert not log_prob[~episode.tokens.action_mask].any()
    rendered = tokenizer.apply_chat_template([*episode.prompt, *episode.completion], tokenize=False)
    assert decode(ids, tokenizer).removesuffix("<eos>") == rendered.removesuffix("<eos>")


def test_the_log_probabilities_are_the_policys(models, tmp_path):
    episodes, _ = collected(models, tmp_path / "e", limit=2)
    policy = load_policy(str(models / "policy"))
    assert policy.dtype == torch.float64
    for e in episodes:
        with torch.no_grad():
            logits = policy(torch.tensor(e.tokens.ids[None].tolist())).logits[0]
        found = logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(e.tokens.ids[1:, None].tolist()))[:, 0].numpy()
        mask = e.tokens.action_mask[1:]
        assert e.tokens.behavior_log_prob[1:][mask] == pytest.approx(found[mask], abs=1e-5)


def test_an_interrupted_collection_goes_on_and_ends_as_if_it_had_not_been(models, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_ROWS", 4)
    _, counts = collected(models, tmp_path / "whole", limit=5, num_generations=2)
    assert counts.pop("response tokens/s") > 0
    assert counts == {"prompts": 5, "responses": 10, "units_resumed": 0}
    whole = shards(tmp_path / "whole")
    assert len(whole) == 3
    played = []

    def dies_at_the_second(*given):
        played.append(1)
        if len(played) == 2:
            raise KeyboardInterrupt
        return CONVERSE(*given)

    monkeypatch.setattr(multi_turn, "converse", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        collected(models, tmp_path / "broken", limit=5, num_generations=2)
    assert len(shards(tmp_path / "broken")) == 1
    monkeypatch.setattr(multi_turn, "converse", CONVERSE)
    _, counts = collected(models, tmp_path / "broken", limit=5, num_generations=2, workers=3)
    assert counts.pop("response tokens/s") > 0
    assert counts == {"prompts": 5, "responses": 10, "units_resumed": 1}
    assert shards(tmp_path / "broken") == whole
    monkeypatch.setattr(multi_turn, "converse", None)  # and nothing is played once more
    _, counts = collected(models, tmp_path / "broken", limit=5, num_generations=2)
    assert counts == {"prompts": 5, "responses": 10, "units_resumed": 3}
    assert shards(tmp_path / "broken") == whole


def test_batches_and_workers_do_not_change_an_episode(models, tmp_path, real_workers):
    few, _ = collected(models, tmp_path / "few", batch_size=2, workers=1)
    many, _ = collected(models, tmp_path / "many", batch_size=64, workers=2)
    assert real_workers == [1, 2]
    assert len({e.metadata["turns"] for e in few}) > 1
    assert [plain(e) for e in few] == [plain(e) for e in many]
    for one, other in zip(few, many):
        assert one.tokens.behavior_log_prob == pytest.approx(other.tokens.behavior_log_prob, abs=1e-6)
    fewer, _ = collected(models, tmp_path / "fewer", num_generations=1, batch_size=5)
    assert [plain(e) for e in fewer] == [plain(e) for e in few if e.sample == 0]
    other_seed, _ = collected(models, tmp_path / "seed", seed=1)
    assert [replies(e) for e in other_seed] != [replies(e) for e in few]


def test_limits_on_turns_and_tokens_truncate(models, tmp_path):
    whole, _ = collected(models, tmp_path / "whole", limit=6)
    cut, _ = collected(models, tmp_path / "cut", limit=6, max_turns=2)
    assert {e.truncated for e in cut} == {True, False}
    for e, before in zip(cut, whole):
        assert e.truncated == (before.metadata["turns"] > 2 or before.truncated)
        assert replies(e) == replies(before)[:2]
        if e.truncated:
            assert (e.stop_reason, e.reward, e.verdict) == (StopReason.LENGTH, None, None)
            assert e.completion == before.completion[:3]
    short, _ = collected(models, tmp_path / "short", limit=6, max_new_tokens=1)
    for e in short:
        assert (e.truncated, e.metadata["turns"], len(e.completion)) == (True, 1, 1)
        assert e.tokens.action_mask.sum() == 1


@pytest.mark.parametrize("flag", ["max_turns", "workers", "num_generations"])
def test_settings_out_of_range_are_one_line(models, tmp_path, capsys, flag):
    flags = ["--task", "fetch", "--model", str(models / "policy"), "--limit", "2", "--output_dir", str(tmp_path / "e")]
    for command in ("collect", "evaluate"):
        assert main([command, *flags, f"--{flag}", "0"]) == 2
        assert f"{flag}: 0 must be 1 or more" in one_line(capsys)


def test_no_other_engine_and_no_worked_solutions(models, tmp_path, capsys):
    engine = ScriptedEngine(lambda request: [], TASK.tokenizer())
    config = CollectConfig(task="fetch", model="x", output_dir=str(tmp_path / "e"), limit=2)
    with pytest.raises(
        InputError,
        match=r"^engine: fetch needs one step or turn at a time, which this engine cannot generate; use transformers, "
        r"or servers that give token ids \(vLLM, SGLang, llama.cpp\)$",
    ):
        collect(config, engine)
    flags = ["--model", "solutions", "--output_dir", str(tmp_path / "s"), "--limit", "2"]
    assert main(["collect", "--task", "fetch", *flags]) == 2
    assert "has no worked solution" in one_line(capsys)


def test_collected_conversations_are_inspected_and_trained_on(models, tmp_path, capsys):
    episodes, _ = collected(models, tmp_path / "e", limit=6, num_generations=4, max_turns=4)
    verdicts = [e.verdict for e in episodes]
    assert set(verdicts) == {Verdict.RIGHT, Verdict.WRONG, None}
    assert main(["inspect", str(tmp_path / "e"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["episodes"], found["prompts"], found["own_ids"]) == (24, 6, 1.0)
    shares = {Verdict.RIGHT: found["right"], Verdict.WRONG: found["wrong"], None: found["truncated"]}
    assert shares == {verdict: pytest.approx(verdicts.count(verdict) / 24) for verdict in shares}
    assert found["undecided"] == 0
    assert found["steps"]["mean"] == pytest.approx(sum(e.metadata["turns"] for e in episodes) / 24)
    flags = ["--model", str(models / "policy"), "--episodes", str(tmp_path / "e"), "--output_dir", str(tmp_path / "o")]
    flags += ["--truncated", "zero", "--step_delimiters", "none", "--level", "step", "--max_steps", "2"]
    flags += ["--use_cpu", "true", "--save_strategy", "no", "--per_device_train_batch_size", "4"]
    assert main(["train", "--method", "oreo", *flags]) == 0
    assert json.loads((tmp_path / "o" / "run.json").read_text())["data"]["episodes"] == 24
    before, after = load_policy(str(models / "policy")), load_policy(str(tmp_path / "o" / "policy"))
    moved = [(a - b).abs().max().item() for a, b in zip(after.parameters(), before.parameters())]
    assert max(moved) > 0
    rows, _ = evaluated(tmp_path / "o", tmp_path / "r", value_model=str(tmp_path / "o" / "value"), search="best-of")
    assert rows[0]["n"] == 4


# ---- evaluate ----------------------------------------------------------------------------------------


def evaluated(models, out, **given):
    config = {
        "task": "fetch",
        "model": str(models / "policy"),
        "output_dir": str(out),
        "limit": 4,
        "method": "m",
        **given,
    }
    return tuple([written(row) for row in rows] for rows in evaluate(EvaluateConfig(**config)))


def kept(out, search, width):
    """The episodes of one way to have conversations."""
    return list(load_episodes(out / "responses" / f"m-test-{search}-seed0-{search}{width}"))


SEARCHES = {
    "greedy": {"search": "greedy"},
    "sample": {"search": "sample", "num_generations": 3},
    "best-of": {"search": "best-of", "width": 3},
    "random": {"search": "random", "width": 3},
}
WIDTHS = {"greedy": 1, "sample": 3, "best-of": 3, "random": 3}


@pytest.mark.parametrize("search", SEARCHES)
def test_a_row_counts_what_the_episodes_hold(models, tmp_path, search):
    width = WIDTHS[search]
    (row,), _ = evaluated(models, tmp_path, value_model=str(models / "value"), **SEARCHES[search])
    episodes = kept(tmp_path, search, width)
    samples = 3 if search == "sample" else 1
    assert (row["search"], row["width"], row["n"], row["task"]) == (search, width, 4, "fetch")
    assert len(episodes) == 4 * samples
    right = sum(e.verdict is Verdict.RIGHT for e in episodes)
    assert row["accuracy"] == pytest.approx(right / len(episodes), abs=1e-6)
    assert row["truncated"] == sum(e.stop_reason is StopReason.LENGTH for e in episodes)
    assert row["undecided"] == 0
    assert ("at_k" in row) == (search == "sample")
    said = sum(int(e.tokens.action_mask.sum()) for e in episodes)
    read = sum(len(e.tokens) for e in episodes)
    if search in ("greedy", "sample"):
        assert (row["tokens_generated"], row["tokens_scored"]) == (said, 0)
    else:
        turns = sum(e.metadata["turns"] for e in episodes)
        assert said + 2 * turns <= row["tokens_generated"] <= turns * 3 * TASK.max_new_tokens
        assert (row["tokens_scored"] > read - said) == (search == "best-of")
    assert row["tokens_generated"] == sum(e.metadata["tokens_generated"] for e in episodes)
    assert row["tokens_scored"] == sum(e.metadata["tokens_scored"] for e in episodes)
    assert json.loads((tmp_path / "results.json").read_text()) == [row]
    lines = (tmp_path / "responses" / f"m-test-{search}-seed0-{search}{width}.jsonl").read_text().splitlines()
    assert [json.loads(line)["response"] for line in lines] == [
        e.completion if len(e.completion) > 1 else e.completion[0]["content"] for e in episodes
    ]


def test_a_row_tells_how_it_was_sampled_where_that_is_not_plainly(models, tmp_path):
    def told(name, **given):
        rows, groups = evaluated(models, tmp_path / name, limit=2, **given)
        return [{k: r[k] for k in ("temperature", "top_p", "top_k") if k in r} for r in (*rows, *groups)]

    cool = told("cool", search="sample", temperature=0.25, top_k=5)
    assert len(cool) > 1
    assert cool == [{"temperature": 0.25, "top_k": 5}] * len(cool), "rows of groups too"
    assert not any(told("plain", search="sample"))
    assert not any(told("greedy", search="greedy", temperature=0.25))


def test_pass_at_k_of_several_samples(models, tmp_path):
    (row,), _ = evaluated(models, tmp_path, search="sample", num_generations=4, limit=8)
    by_problem = {}
    for e in kept(tmp_path, "sample", 4):
        by_problem.setdefault(e.prompt_id, []).append(e.verdict is Verdict.RIGHT)
    assert [at["k"] for at in row["at_k"]] == [1, 2, 4]
    assert row["at_k"][0]["pass"] == row["accuracy"] > 0
    assert row["at_k"][2]["pass"] == sum(any(right) for right in by_problem.values()) / 8 > row["accuracy"]


def test_greedy_is_the_likeliest_and_one_sample_alone_is_the_first(models, tmp_path):
    policy, tokenizer = load_policy(str(models / "policy")), load_tokenizer(str(models / "policy"))
    evaluated(models, tmp_path, search="greedy", limit=2, temperature=0.7)
    for e in kept(tmp_path, "greedy", 1):
        with torch.no_grad():
            best = policy(torch.tensor(e.tokens.ids[None].tolist())).logits[0, :-1].argmax(-1).numpy()
        mask = e.tokens.action_mask[1:]
        assert best[mask].tolist() == e.tokens.ids[1:][mask].tolist()
        exact_ids(e, tokenizer)
    evaluated(models, tmp_path / "s", search="sample", num_generations=2)
    evaluated(models, tmp_path / "1", search="sample", num_generations=1)
    two = kept(tmp_path / "s", "sample", 2)
    one = kept(tmp_path / "1", "sample", 1)
    assert [plain(e) for e in two if e.sample == 0] == [plain(e) for e in one]


def test_all_searches_in_one_run_again_without_a_draw_and_each_alone(models, tmp_path, monkeypatch, capsys):
    flags = [
        "--task",
        "fetch",
        "--model",
        str(models / "policy"),
        "--value_model",
        str(models / "value"),
        "--limit",
        "4",
    ]
    flags += ["--num_generations", "2", "--width", "3", "--method", "m", "--workers", "1"]
    assert main(["evaluate", *flags, "--output_dir", str(tmp_path / "all"), "--search", "all"]) == 0
    rows = json.loads((tmp_path / "all" / "results.json").read_text())
    wanted = [("greedy", 1), ("sample", 2), ("best-of", 2), ("best-of", 3), ("random", 2), ("random", 3)]
    assert [(row["search"], row["width"]) for row in rows] == wanted
    assert {row["n"] for row in rows} == {4}
    groups = json.loads((tmp_path / "all" / "groups.json").read_text())
    assert [(g["search"], g["width"]) for g in groups if g["group"] == groups[0]["group"]] == wanted
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")}
    assert len(before) == 6

    with monkeypatch.context() as patch:
        patch.setattr(multi_turn, "converse", None)
        again = [*flags, "--workers", "2", "--batch_size", "7"]
        assert main(["evaluate", *again, "--output_dir", str(tmp_path / "all"), "--search", "all"]) == 0
    assert json.loads((tmp_path / "all" / "results.json").read_text()) == rows
    assert json.loads((tmp_path / "all" / "groups.json").read_text()) == groups
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")} == before

    for search in ("greedy", "sample", "best-of", "random"):
        assert main(["evaluate", *flags, "--output_dir", str(tmp_path / "one"), "--search", search]) == 0
    alone = json.loads((tmp_path / "one" / "results.json").read_text())
    assert alone == [row for row in rows if (row["search"], row["width"]) not in (("best-of", 2), ("random", 2))]
    capsys.readouterr()
    assert (
        main(["evaluate", *flags, "--output_dir", str(tmp_path / "one"), "--search", "greedy", "--max_turns", "3"]) == 2
    )
    assert "was collected with another max_turns" in one_line(capsys)


def test_without_a_value_all_leaves_best_of_out(models, tmp_path):
    rows, _ = evaluated(models, tmp_path, search="all", width=2, limit=2)
    assert [(r["search"], r["width"]) for r in rows] == [("greedy", 1), ("sample", 1), ("random", 2)]


def test_an_interrupted_evaluation_goes_on(models, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_ROWS", 2)
    rows, _ = evaluated(models, tmp_path / "whole", search="random", width=2)
    played = []

    def dies_at_the_second(*given):
        played.append(1)
        if len(played) == 2:
            raise KeyboardInterrupt
        return CONVERSE(*given)

    monkeypatch.setattr(multi_turn, "converse", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluated(models, tmp_path / "broken", search="random", width=2)
    again, _ = evaluated(models, tmp_path / "broken", search="random", width=2, batch_size=3)
    assert len(played) > 2
    assert again == rows
    whole, broken = (kept(tmp_path / folder, "random", 2) for folder in ("whole", "broken"))
    assert [plain(e) for e in whole] == [plain(e) for e in broken]


def test_results_by_level(models, tmp_path):
    (row,), groups = evaluated(models, tmp_path, search="greedy", limit=9)
    levels = [p.metadata["level"] for p in TASK.problems("test", 9)]
    assert {g["by"] for g in groups} == {"level"}
    assert {g["group"]: g["n"] for g in groups} == {level: levels.count(level) for level in levels}
    assert sum(g["n"] * g["accuracy"] for g in groups) == pytest.approx(9 * row["accuracy"], abs=1e-5)


def test_a_value_model_is_judged_on_sampled_conversations(models, tmp_path):
    evaluated(models, tmp_path, search="sample", num_generations=8, value_model=str(models / "value"))
    rows = json.loads((tmp_path / "value.json").read_text())
    assert [(r["metric"], r["at"]) for r in rows] == [("auc_within_prompt", 0.5), ("auc_within_prompt", 1.0)]
    pairs = {}
    for e in kept(tmp_path, "sample", 8):
        pairs.setdefault(e.prompt_id, {Verdict.RIGHT: 0, Verdict.WRONG: 0, None: 0})[e.verdict] += 1
    expected = sum(of[Verdict.RIGHT] * of[Verdict.WRONG] for of in pairs.values())
    assert [r["n"] for r in rows] == [expected, expected]
    assert expected > 0


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (
            ["--search", "vote"],
            "search: 'vote' does not apply to an interactive task; choose from greedy, ",
        ),
        (
            ["--search", "weighted-vote", "--value_model", "V"],
            "search: 'weighted-vote' does not apply to an interactive",
        ),
        (["--search", "beam", "--value_model", "V"], "search: 'beam' does not apply to an interactive task"),
        (["--search", "beam"], "search: beam needs --value_model"),
        (["--search", "best-of"], "search: best-of needs --value_model or --reward_model"),
        (["--search", "random", "--width", "0"], "width: 0 must be 1 or more"),
        (["--task", "arithmetic", "--search", "random"], "search: 'random' does not apply to a single-turn"),
    ],
)
def test_searches_that_do_not_fit_are_one_line(models, tmp_path, capsys, flags, error):
    given = [str(models / "value") if flag == "V" else flag for flag in flags]
    task = [] if "--task" in flags else ["--task", "fetch"]
    command = [
        "evaluate",
        *task,
        "--model",
        str(models / "policy"),
        "--output_dir",
        str(tmp_path),
        "--limit",
        "2",
        *given,
    ]
    assert main(command) == 2
    assert error in one_line(capsys)
    assert not any(tmp_path.iterdir())


# ---- what goes wrong, and what a good choice is worth ------------------------------------------------


class FallingShelf(FetchEnvironment):
    """Crashes at the second reply to one problem."""

    problem = ""

    def reset(self, problem):
        self.is_falling, self.replies = problem.prompt_id == self.problem, 0
        return super().reset(problem)

    def step(self, reply):
        self.replies += 1
        if self.is_falling and self.replies == 2:
            raise RuntimeError("the shelf fell")
        return super().step(reply)


def test_an_environment_that_crashes_leaves_its_episodes_undecided_and_the_others_alone(models, tmp_path, monkeypatch):
    given = {"search": "sample", "num_generations": 3}
    (row,), _ = evaluated(models, tmp_path / "whole", **given)
    whole = kept(tmp_path / "whole", "sample", 3)
    falling = next(e.prompt_id for e in whole if e.metadata["turns"] > 2)
    monkeypatch.setattr(FallingShelf, "problem", falling)
    monkeypatch.setattr(Fetch, "environment", lambda self: FallingShelf())
    (broken_row,), _ = evaluated(models, tmp_path / "broken", **given)
    broken = kept(tmp_path / "broken", "sample", 3)
    crashed = [e.prompt_id == falling and e.metadata["turns"] >= 2 for e in whole]
    assert 0 < sum(crashed) <= 3
    for e, before, has_crashed in zip(broken, whole, crashed, strict=True):
        if not has_crashed:
            assert plain(e) == plain(before)
            continue
        assert (e.verdict, e.reward, e.truncated) == (Verdict.UNDECIDED, None, False)
        assert e.metadata["error"] == "RuntimeError: the shelf fell"
        assert replies(e) == replies(before)[:2]
    assert (row["undecided"], broken_row["undecided"]) == (0, sum(crashed))
    assert broken_row["n"] == 4
    right = sum(e.verdict is Verdict.RIGHT and not c for e, c in zip(whole, crashed))
    assert broken_row["accuracy"] == pytest.approx(right / 12, abs=1e-6)
    lines = (tmp_path / "broken" / "responses" / "m-test-sample-seed0-sample3.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["verdict"] == "undecided" for line in lines) == sum(crashed)


def knowing_scorer(problems, tokenizer):
    """Plays the replies so far on the real game: 3 for the coin brought, 2 in hand, 1 in sight."""
    games = {first_words(p): p for p in problems}
    assert len(games) == len(problems)

    def worth(row):
        turns = decode(row, tokenizer).split("<assistant>")
        game = FetchEnvironment()
        game.reset(games[turns[1].split("<user>")[1].removesuffix("<eos>")])
        for turn in turns[2:]:
            answer = game.step(turn.split("<eos>")[0])
        if answer.done:
            return 3 * answer.reward - 1
        return {"you hold it": 2.0, "a coin": 1.0}.get(answer.text, float("you hold it" in turns[-2]))

    return FunctionScorer(lambda rows: [worth(row) for row in rows])


def test_the_reply_that_is_worth_most_is_said(models, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(str(models / "policy"))
    problems = list(TASK.problems("test", 6))
    monkeypatch.setattr(evaluating.Models, "scorer", knowing_scorer(problems, tokenizer))
    rows = {}
    for search, value_model in (("best-of", "made by hand"), ("random", None)):
        (rows[search],), _ = evaluated(models, tmp_path, search=search, width=24, limit=6, value_model=value_model)
    assert rows["best-of"]["accuracy"] == 1.0
    assert rows["random"]["accuracy"] < 0.7
    for e in kept(tmp_path, "best-of", 24):
        *others, found, take, bring = replies(e)
        assert (found, take, bring) == (f"open {e.metadata['answer']}", "take", "bring")
        assert not {found, "take", "bring"} & set(others)
        exact_ids(e, tokenizer)
