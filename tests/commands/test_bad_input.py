"""Bad input, through the command line: one line with file and line or field, exit code 2, nothing half-written."""

import json

import pytest

from doubles.tokenizers import byte_tokenizer
from stepcredit.cli import main
from stepcredit.episodes.store import load_episodes
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch

GOOD = b'{"prompt": "1+1=", "completion": "2", "reward": 1.0}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "q", "completion": "a"}', "reward"),
        (b'{"completion": "a", "reward": 1}', "prompt"),
        (b'{"prompt": "q", "completion": "a", "reward": NaN}', "nan is not a finite number"),
        (b'{"prompt": "q", "completion": "a", "reward": "good"}', "reward"),
        (b'{"prompt": "q", "completion": "a", "reward": 7}', "reward"),
        (b"null", "must be an object"),
        (b'{"prompt": "\xff", "completion": "a", "reward": 1}', "UTF-8"),
        (b'{"prompt": "q", "completion": "a', "JSON"),
    ],
)
def test_import(line, message, tmp_path, capsys):
    logs, out = tmp_path / "logs.jsonl", tmp_path / "episodes"
    logs.write_bytes(b"\n".join([GOOD, line, GOOD, b""]))
    assert main(["import", str(logs), "--output_dir", str(out)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{logs}:2" in err
    assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["logs.jsonl"]
    assert main(["import", str(logs), "--output_dir", str(out), "--skip-bad"]) == 0
    assert "1 bad" in capsys.readouterr().out
    assert len(load_episodes(out)) == 2
    (bad,) = [json.loads(row) for row in (out / "quarantine.jsonl").read_text().splitlines()]
    assert bad["where"] == f"{logs}:2"


@pytest.fixture
def policy(tmp_path):
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m.content if m.role == 'user' }}{% endfor %}")
    folder = tmp_path / "policy"
    policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


BAD_EPISODES = [
    (
        {"prompt": "x" * 90, "completion": "2", "reward": 1},
        "prompt: the prompt has 90 tokens, which leaves no room for a response within max_length 64",
    ),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "reward": 1},
        "chat_template: the chat template leaves the assistant's message out",
    ),
]


@pytest.mark.parametrize(("row", "message"), BAD_EPISODES)
def test_train(row, message, policy, tmp_path, capsys):
    logs, episodes, out = tmp_path / "logs.jsonl", tmp_path / "episodes", tmp_path / "out"
    logs.write_bytes(GOOD + b"\n" + json.dumps(row).encode() + b"\n")
    assert main(["import", str(logs), "--output_dir", str(episodes)]) == 0
    flags = ["--model", policy, "--episodes", str(episodes), "--output_dir", str(out), "--max_length", "64"]
    small = ["--max_steps", "1", "--use_cpu", "true", "--save_strategy", "no"]
    capsys.readouterr()
    assert main(["train", "--method", "oreo", *flags, *small]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "episode 1 (prompt " in err
    assert message in err
    assert not out.exists()
    assert main(["train", "--method", "oreo", *flags, *small, "--skip_bad"]) == 0
    assert "; left out: 1 bad" in capsys.readouterr().out
    (bad,) = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert message in bad["error"]
