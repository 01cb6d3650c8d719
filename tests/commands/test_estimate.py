"""`stepcredit estimate`: tables and JSON from a config alone, and bad input in one line."""

import json

import pytest
from test_splits import ragged

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.cli import main
from stepcredit.episodes.store import append_episodes

LENGTHS = ["--prompt_tokens", "12", "--response_tokens", "20", "--num_prompts", "4"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    tiny_llama(hidden=32, layers=3).config.save_pretrained("model")
    return tmp_path


def test_tables_and_json(here, capsys):
    command = ["estimate", "--method", "oreo", "--model", "model", *LENGTHS, "--device", "H100", "--bf16", "true"]
    assert main([*command, "--train_layers", "2", "--output", "estimate.json"]) == 0
    out = capsys.readouterr().out
    for words in ("weights: policy", "optimizer state", "activations: value", "peak", "first use", "head and loss",
                  "oreo on H100", "tokens/s", "pays after"):  # fmt: skip
        assert words in out
    found = json.loads((here / "estimate.json").read_text())
    assert found["memory_gb"]["peak"] == pytest.approx(sum(found["memory_gb"]["parts"].values()), abs=1e-3)
    assert found["memory_gb"]["peak"] == max(found["memory_gb"]["phases"].values())
    assert found["device"] == {"name": "H100", "memory_gb": 80.0}
    assert sorted(p.name for p in here.iterdir()) == ["estimate.json", "model"]


def test_the_flags_of_train_and_its_file(here, capsys):
    byte_tokenizer().save_pretrained("model")
    append_episodes("episodes", ragged())
    (here / "train.yaml").write_text("method: dpo\nmodel: model\nepisodes: episodes\nuse_peft: true\nlora_r: 4\n")
    assert main(["estimate", "--config", "train.yaml", "--device", "l4", "--output_dir", "out"]) == 0
    assert "dpo on L4" in capsys.readouterr().out
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "oreo"], "the following arguments are required: --model"),
        (["--model", "model", *LENGTHS], "--method: is required; choose from"),
        (["--method", "oreo", "--model", "model"], "episodes: give --episodes DIR, or --prompt_tokens"),
        (
            ["--method", "oreo", "--model", "model", *LENGTHS, "--device", "H10"],
            "device: unknown device 'H10'",
        ),
        (["--method", "oreo", "--model", "empty", *LENGTHS], "empty: no config.json here"),
        (
            ["--method", "oreo", "--model", "model", *LENGTHS, "--train_layers", "3"],
            "train_layers: 3: LlamaModel",
        ),
        (["--method", "oreo", "--model", "model", "--episodes", "nowhere"], "nowhere"),
        (["--method", "oreo", "--model", "model", "--prompt_tokens", "0"], "prompt_tokens: 0 must be 1 or more"),
        (
            ["--method", "oreo", "--model", "model", "--devise", "cpu"],
            "'--devise'; did you mean --device?",
        ),
    ],
)
def test_bad_input_is_one_line(flags, says, here, capsys):
    (here / "empty").mkdir()
    assert main(["estimate", *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("stepcredit: error: ")
    assert says in err
    assert err.count("\n") == 1
