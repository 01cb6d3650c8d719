"""ALFWorld through the commands, at toy size: games built, demonstrated, collected and evaluated."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from doubles.tokenizers import trained_tokenizer
from stepcredit.cli import main
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.store import load_episodes
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.rollouts import demonstrate as demonstrating
from stepcredit.tasks.alfworld import installation
from stepcredit.tasks.alfworld.alfworld_task import SPLITS, ALFWorld
from stepcredit.tasks.alfworld.scenario import FAMILIES
from stepcredit.verdict import Verdict

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tw-pddl:ResourceWarning")  # left open by textworld
DEMONSTRATE = ["--prompt_style", "act", "--num_generations", "2", "--max_turns", "12"]


@pytest.fixture
def games(built):
    return built[0]


@pytest.fixture(scope="module")
def demonstrated(built, tmp_path_factory):
    """Demonstrations of the games, by one worker process."""
    out = tmp_path_factory.mktemp("demonstrated") / "d"
    flags = ["--data", str(built[0]), "--output_dir", str(out), "--workers", "1", *DEMONSTRATE]
    assert main(["alfworld", "demonstrate", *flags]) == 0
    return out


@contextmanager
def in_this_process(workers):
    yield SimpleNamespace(map=map)


def shards(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("episodes-*.parquet"))}


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.startswith("stepcredit: error: ")
    assert said.count("\n") == 1
    return said


# ---- build -------------------------------------------------------------------------------------------


def test_games_are_built_and_counted(built):
    folder, printed = built
    counts, following = printed.splitlines()
    families = [f"1 {f}" if k >= 2 else f"3 {f}" for k, f in enumerate(FAMILIES)]
    assert counts.startswith(f"{folder}: 10 games, 0 there before, ")
    assert counts.endswith(", ".join(families))
    assert following == f"Next: stepcredit alfworld demonstrate --data {folder} --output_dir demonstrations"
    found = {split: len(list(folder.glob(f"json_2.1.1/{split}/*/*/game.tw-pddl"))) for split in SPLITS}
    assert found == {"train": 6, "valid_seen": 2, "valid_unseen": 2}
    kept = json.loads((folder / "built.json").read_text())
    assert (kept["train"], kept["seed"], kept["games"]) == (6, 0, 10)


def test_a_second_build_finds_all_there(games, build_flags, capsys):
    before = {p: p.stat().st_mtime_ns for p in games.rglob("game.tw-pddl")}
    assert main(["alfworld", "build", "--output_dir", str(games), *build_flags]) == 0
    assert "10 games, 10 there before, " in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in games.rglob("game.tw-pddl")} == before


def test_a_folder_of_another_seed_or_with_other_things_is_refused(games, build_flags, tmp_path, capsys):
    kept = (games / "built.json").read_text()
    assert main(["alfworld", "build", "--output_dir", str(games), *build_flags, "--seed", "1"]) == 2
    assert f"{games}: was built with another seed; choose another --output_dir" in one_line(capsys)
    assert (games / "built.json").read_text() == kept
    (tmp_path / "x").write_text("mine")
    assert main(["alfworld", "build", "--output_dir", str(tmp_path), *build_flags]) == 2
    assert f"{tmp_path}: is not empty and was not built here; choose another --output_dir" in one_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert main(["alfworld", "build", "--output_dir", str(tmp_path / "y"), "--valid_seen", "-1"]) == 2
    assert "valid_seen: -1 must be 0 or more" in one_line(capsys)


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    out = tmp_path / "games"
    assert (
        main(["alfworld", "build", "--output_dir", str(out), "--train", "6", "--valid_unseen", "0", "--dry_run"]) == 0
    )
    assert capsys.readouterr().out == f"{out}: 126 games, 6 train, 120 valid_seen\n"
    assert not out.exists()


# ---- demonstrate -------------------------------------------------------------------------------------


def test_demonstrations_are_episodes_of_the_games(games, demonstrated):
    problems = ALFWorld(str(games), "act").problems("train")
    episodes = list(load_episodes(demonstrated))
    assert [(e.prompt_id, e.sample) for e in episodes] == [(p.prompt_id, k) for p in problems for k in range(2)]
    for e in episodes:
        assert [m["role"] for m in e.prompt] == ["user"]  # act: no instructions
        assert e.metadata["turns"] <= 12
        assert (e.reward, e.verdict) == ((None, None) if e.truncated else (1.0, Verdict.RIGHT))
        assert e.stop_reason is (StopReason.LENGTH if e.truncated else StopReason.STOP)
    assert any(e.verdict is Verdict.RIGHT for e in episodes)


def test_demonstrators_may_err_alike(games, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demonstrating, "worker_pool", in_this_process)
    command = ["alfworld", "demonstrate", "--data", str(games), "--output_dir", str(tmp_path / "d"), *DEMONSTRATE]
    assert main([*command, "--careless", "1.5"]) == 2
    assert "careless: 1.5 must be 1 or less" in one_line(capsys)
    assert main([*command, "--distracted", "-0.1"]) == 2
    assert "distracted: -0.1 must be 0 or more" in one_line(capsys)
    assert main([*command, "--careless", "0.25", "--distracted", "0.75"]) == 0
    metadata = [e.metadata for e in load_episodes(tmp_path / "d")]
    assert {(m["carelessness"], m["distraction"]) for m in metadata} == {(0.25, 0.75)}
    capsys.readouterr()
    assert main([*command, "--careless", "0.5", "--distracted", "0.75"]) == 2
    assert "was collected with another careless; choose another --output_dir" in one_line(capsys)


def test_demonstrating_goes_on_where_it_stopped(games, demonstrated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demonstrating, "worker_pool", in_this_process)
    monkeypatch.setattr(demonstrating, "UNIT_GAMES", 4)
    play, played = demonstrating.demonstrations, []

    def dies_at_the_sixth(task, problem, **given):
        played.append(problem.prompt_id)
        if len(played) == 6:
            raise KeyboardInterrupt
        return play(task, problem, **given)

    command = ["alfworld", "demonstrate", "--data", str(games), "--output_dir", str(tmp_path / "d"), *DEMONSTRATE]
    monkeypatch.setattr(demonstrating, "demonstrations", dies_at_the_sixth)
    assert main(command) == 130
    assert len(shards(tmp_path / "d")) == 1
    assert main([*command, "--workers", "3"]) == 0
    assert played[6:] == played[4:6]
    won = sum(e.reward == 1.0 for e in load_episodes(demonstrated))
    assert f"{tmp_path / 'd'}: 6 games, 12 episodes, {won} won" in capsys.readouterr().out
    found, whole = (list(load_episodes(folder)) for folder in (tmp_path / "d", demonstrated))
    assert [vars(e) for e in found] == [vars(e) for e in whole]
    before = shards(tmp_path / "d")
    assert main(command) == 0
    assert len(played) == 8
    assert shards(tmp_path / "d") == before
    capsys.readouterr()
    assert main([*command, "--seed", "1"]) == 2
    assert "was collected with another seed; choose another --output_dir" in one_line(capsys)


@pytest.mark.parametrize("flag", ["num_generations", "max_turns"])
def test_no_demonstrations_and_no_turns_are_refused(tmp_path, capsys, flag):
    assert main(["alfworld", "demonstrate", "--output_dir", str(tmp_path / "d"), f"--{flag}", "0"]) == 2
    assert f"{flag}: 0 must be 1 or more" in one_line(capsys)


# ---- collect and evaluate ----------------------------------------------------------------------------


def test_solutions_are_right_and_played_once(games, tmp_path, monkeypatch, capsys):
    command = ["collect", "--task", "alfworld", "--model", "solutions", "--data", str(games), "--limit", "4"]
    assert main([*command, "--output_dir", str(tmp_path / "dry"), "--dry_run"]) == 0
    assert not (tmp_path / "dry").exists()
    assert main([*command, "--output_dir", str(tmp_path / "s")]) == 0
    assert f"{tmp_path / 's'}: 4 prompts, 4 responses\n" in capsys.readouterr().out
    episodes = list(load_episodes(tmp_path / "s"))
    assert [e.prompt_id for e in episodes] == [p.prompt_id for p in ALFWorld(str(games)).problems("train", 4)]
    for e in episodes:
        assert (e.verdict, e.reward, e.truncated) == (Verdict.RIGHT, 1.0, False)
        assert e.prompt[0]["content"].startswith("You are in a household")
        assert all("Action: " in m["content"] for m in e.completion[::2])
    least = min(e.metadata["turns"] for e in episodes)
    before = shards(tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr(ALFWorld, "demonstrated", lambda *given: pytest.fail("played again"))
        assert main([*command, "--output_dir", str(tmp_path / "s")]) == 0
        assert main([*command, "--output_dir", str(tmp_path / "s"), "--seed", "1"]) == 2
    assert shards(tmp_path / "s") == before
    monkeypatch.setattr(ALFWorld, "max_turns", least)
    assert main([*command, "--output_dir", str(tmp_path / "few")]) == 0
    short = [e for e in episodes if e.metadata["turns"] == least]
    assert [vars(e) for e in load_episodes(tmp_path / "few")] == [vars(e) for e in short]


def test_a_policy_is_evaluated_to_a_row_with_its_families(games, demonstrated, tmp_path):
    texts = [m["content"] for e in load_episodes(demonstrated) for m in [*e.prompt, *e.completion]]
    tokenizer = trained_tokenizer(texts)
    policy = policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2, max_length=2048), seed=0)
    for saved in (policy, tokenizer):
        saved.save_pretrained(tmp_path / "policy")
    flags = ["--model", str(tmp_path / "policy"), "--data", str(games), "--prompt_style", "act", "--workers", "1"]
    flags += ["--split", "train", "--max_turns", "2", "--max_new_tokens", "4", "--output_dir", str(tmp_path / "r")]
    assert main(["evaluate", "--task", "alfworld", *flags]) == 0
    (row,) = json.loads((tmp_path / "r" / "results.json").read_text())
    assert (row["task"], row["split"], row["search"], row["prompt_style"]) == ("alfworld", "train", "greedy", "act")
    assert (row["n"], row["accuracy"], row["truncated"], row["undecided"]) == (6, 0.0, 6, 0)
    assert set(row["source_versions"]) == {"train"}
    groups = json.loads((tmp_path / "r" / "groups.json").read_text())
    assert [(g["by"], g["group"], g["n"]) for g in groups] == [("type", family, 1) for family in sorted(FAMILIES)]
    episodes = list(load_episodes(tmp_path / "r" / "responses" / "policy-train-greedy-seed0-greedy1"))
    assert [e.prompt_id for e in episodes] == [p.prompt_id for p in ALFWorld(str(games)).problems("train")]
    assert row["tokens_generated"] == sum(int(e.tokens.action_mask.sum()) for e in episodes)
    for e in episodes:
        assert "Your task is to: " in e.prompt[-1]["content"]
        assert tokenizer.decode(e.tokens.ids[: -e.tokens.action_mask.sum()].tolist()).endswith("<assistant>")


# ---- one line of help, or of what is missing ---------------------------------------------------------


@pytest.mark.parametrize("verb", [[], ["biuld"], ["--data", "x"]])
def test_a_verb_is_needed(verb, capsys):
    assert main(["alfworld", *verb]) == 2
    assert "needs build or demonstrate; see stepcredit alfworld --help" in one_line(capsys)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["build", "--help"], ["demonstrate", "--help"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["alfworld", *arguments])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: stepcredit alfworld {arguments[0] if len(arguments) == 2 else 'build|demonstrate'}")
    assert ("--valid_unseen" in said) == (arguments[0] == "build")


@pytest.mark.parametrize(
    "arguments",
    [
        ["alfworld", "build", "--train", "1", "--workers", "1"],
        ["alfworld", "demonstrate", "--data", "GAMES"],
        ["collect", "--task", "alfworld", "--model", "solutions", "--data", "GAMES"],
        ["evaluate", "--task", "alfworld", "--model", "p", "--data", "GAMES", "--split", "valid_seen"],
    ],
    ids=lambda a: a[0] if a[0] != "alfworld" else a[1],
)
def test_the_missing_extra_is_named(arguments, tmp_path, monkeypatch, capsys):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(installation, "importlib", SimpleNamespace(import_module=absent))
    monkeypatch.setattr(installation, "sys", SimpleNamespace(version_info=(3, 11, 0)))
    (tmp_path / "games" / "json_2.1.1").mkdir(parents=True)
    given = [str(tmp_path / "games") if a == "GAMES" else a for a in arguments]
    assert main([*given, "--output_dir", str(tmp_path / "out")]) == 2
    assert "needs the extra: pip install 'stepcredit[alfworld]'" in one_line(capsys)
    assert not shards(tmp_path / "out")


@pytest.mark.parametrize("command", [["alfworld", "demonstrate"], ["collect", "--task", "alfworld", "--model", "p"]])
def test_games_that_are_not_there_are_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(installation.DATA, raising=False)
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 2
    assert "data: no folder of games; give --data or $ALFWORLD_DATA" in one_line(capsys)
    assert main([*command, "--data", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 2
    assert "not a folder of ALFWorld games" in one_line(capsys)
    assert not (tmp_path / "out").exists()
