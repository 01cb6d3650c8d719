"""`--engine openai` through the commands: collected, evaluated, generated; stopped by a dead server, and resumed."""

import json

import pytest
import torch

from doubles.servers import StandIn, send, serving
from stepcredit.cli import main
from stepcredit.engines.server import connection
from stepcredit.episodes.store import load_episodes
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.models.loading import value_model_from
from stepcredit.rollouts import collect as collecting
from stepcredit.tasks.arithmetic import Arithmetic

TASK = ["--task", "arithmetic", "--limit", "6", "--max_new_tokens", "12"]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """(folder, model, tokenizer) of a policy of few words, so that responses end."""
    tokenizer = Arithmetic().tokenizer()
    model = policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    folder = tmp_path_factory.mktemp("models")
    model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    value_model_from(model).save_pretrained(folder / "value")
    return folder, model, tokenizer


def stand_in(policy, dialect="vllm"):
    folder, model, tokenizer = policy
    return StandIn(model, tokenizer, dialect, str(folder / "policy"), ends=(tokenizer.eos_token_id,))


def test_greedy_evaluation_through_a_server_is_that_of_the_model_here(policy, tmp_path):
    folder, *_ = policy
    rows = []
    with serving(stand_in(policy)) as url:
        for name, flags in (("here", []), ("server", ["--engine", "openai", "--base_url", url])):
            command = ["evaluate", *TASK, "--model", str(folder / "policy"), "--output_dir", str(tmp_path / name)]
            assert main([*command, *flags]) == 0
            (file,) = (tmp_path / name / "responses").glob("*.jsonl")
            rows.append(file.read_text())
    assert rows[0] == rows[1]
    (row,) = json.loads((tmp_path / "server" / "results.json").read_text())
    assert row["engine"] == "openai"


@pytest.mark.parametrize("dialect", ["llama.cpp", "text"])
def test_episodes_have_the_ids_of_the_server_or_are_marked(policy, tmp_path, dialect):
    folder, *_ = policy
    out = tmp_path / "episodes"
    with serving(stand_in(policy, dialect)) as url:
        command = ["collect", *TASK, "--model", str(folder / "policy"), "--num_generations", "3"]
        assert main([*command, "--output_dir", str(out), "--engine", "openai", "--base_url", url]) == 0
    episodes = list(load_episodes(out))
    assert len(episodes) == 18
    marked = dialect == "text"
    assert [e.metadata.get("retokenised", False) for e in episodes] == [marked] * 18
    assert [e.tokens.behavior_log_prob is None for e in episodes] == [marked] * 18
    assert {"base_url", "retries"} & set(json.loads((out / "collect.json").read_text())) == set()


def test_a_dead_server_keeps_what_is_finished_and_the_next_run_goes_on(policy, tmp_path, capsys, monkeypatch):
    folder, *_ = policy
    monkeypatch.setattr(collecting, "work_units", lambda problems, samples, rows=None: [[p] for p in problems])
    out = tmp_path / "episodes"
    server = stand_in(policy)
    command = ["collect", *TASK, "--model", str(folder / "policy"), "--num_generations", "2", "--output_dir", str(out),
               "--engine", "openai", "--retries", "1"]  # fmt: skip
    with serving(server) as url:
        server.faults = [None] * 5 + [lambda handler, answer: send(handler, {"error": "out of memory"}, 500)] * 4
        assert main([*command, "--base_url", url]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"stepcredit: error: {url}: status 500")
    assert "out of memory" in line
    kept = list(load_episodes(out))
    assert 2 <= len(kept) < 12
    with serving(stand_in(policy)) as url:  # at another address
        assert main([*command, "--base_url", url]) == 0
    whole = list(load_episodes(out))
    with serving(stand_in(policy)) as url:
        command[command.index(str(out))] = str(tmp_path / "undisturbed")
        assert main([*command, "--base_url", url]) == 0
    undisturbed = list(load_episodes(tmp_path / "undisturbed"))
    assert [(e.prompt_id, e.sample, e.tokens.ids.tolist(), e.reward) for e in whole] == [
        (e.prompt_id, e.sample, e.tokens.ids.tolist(), e.reward) for e in undisturbed
    ]


def test_a_beam_search_through_a_server(policy, tmp_path):
    folder, *_ = policy
    out = tmp_path / "answers.jsonl"
    with serving(stand_in(policy)) as url:
        command = ["generate", "2 + 3 = ", "--model", str(folder / "policy"), "--value_model", str(folder / "value")]
        flags = ["--search", "beam", "--width", "2", "--max_new_tokens", "12", "--chat", "false"]
        assert main([*command, *flags, "--engine", "openai", "--base_url", url, "--output", str(out)]) == 0
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["tokens"] >= 1
    assert row["stop_reason"] in ("stop", "length")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "openai"], "base_url: the addresses of the servers are missing"),
        (["--base_url", "http://127.0.0.1:9"], "base_url: the engine transformers asks no servers"),
        (["--server_model", "x"], "server_model: names a model of servers; give --base_url, too"),
        (["--engine", "openai", "--base_url", "http://127.0.0.1:9", "--retries", "0"], "127.0.0.1:9: ConnectError"),
        (["--engine", "openai", "--base_url", "nowhere"], "base_url: 'nowhere' is no address"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_writes_nothing(policy, tmp_path, capsys, flags, message):
    folder, *_ = policy
    out = tmp_path / "episodes"
    assert main(["collect", *TASK, "--model", str(folder / "policy"), "--output_dir", str(out), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(out.glob("*.arrow"))


def test_rounds_have_no_single_name_on_a_server(policy, tmp_path, capsys):
    folder, *_ = policy
    flags = ["--method", "rft", "--engine", "openai", "--base_url", "http://127.0.0.1:9", "--server_model", "x"]
    assert main(["iterate", *TASK, "--model", str(folder / "policy"), "--output_dir", str(tmp_path / "i"), *flags]) == 2
    assert "server_model: names one policy, and every round has another" in capsys.readouterr().err
