"""One flag means one thing: every `--help` is read, and no old name of a flag is left anywhere."""

import re
import subprocess
from pathlib import Path

import pytest

from stepcredit.cli import COMMANDS, main
from stepcredit.flags import MEANINGS, flag
from stepcredit.tasks.registry import GENERATED, LOADED, TASK_NAMES
from stepcredit.training.methods import METHODS

ROOT = Path(__file__).parent.parent
SHARED = (
    "model", "value_model", "ref_model", "reward_model", "output_dir", "task", "data", "split", "limit",
    "num_generations", "max_new_tokens", "engine", "dtype", "seed", "batch_size", "temperature", "top_p", "top_k",
    "trust_remote_code", "dry_run", "chat_template", "merge_system_message", "step_delimiters",
    "settings", "value_base_url", "base_url", "server_model", "concurrency", "request_timeout", "retries",
)  # fmt: skip
OLD = re.compile(r"(?<![\w-])--(policy|out|value|prompts|samples)(?![\w-])")
CALLS = [
    *([name] for name in COMMANDS if name not in ("alfworld", "train")),
    ["alfworld", "build"],
    ["alfworld", "demonstrate"],
    *(["train", "--method", name] for name in METHODS),
]


def help_of(call, capsys, monkeypatch):
    """The help of a command, each flag's text in one line."""
    monkeypatch.setenv("COLUMNS", "100000")
    with pytest.raises(SystemExit) as stop:
        main([*call, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_flag_means_the_same_in_every_help(call, capsys, monkeypatch):
    text = help_of(call, capsys, monkeypatch)
    assert not OLD.findall(text)
    flags = {m[1]: m[2] for m in re.finditer(r"^  --(\w+)\b.*?(?:  |\n {3,})(\S.*)$", text, re.MULTILINE)}
    assert flags or call == ["report"]
    for name in set(SHARED) & set(flags):
        stated = rf"{re.escape(MEANINGS[name])}(; default: [^.]+)?\.( |$)"
        assert re.match(stated, flags[name]), f"--{name}: {flags[name]}"


def test_the_help_of_training_explains_our_settings_and_names_those_of_transformers(capsys, monkeypatch):
    text = help_of(["train", "--method", "oreo"], capsys, monkeypatch)
    ours, _, theirs = text.partition("settings of transformers.TrainingArguments:")
    assert "  --kl_coef KL_COEF " in ours
    assert "--kl-coef" not in text
    assert "  -h, --help " in ours
    assert " gradient_checkpointing_kwargs, " in " ".join(theirs.split())
    assert "learning_rate" not in theirs  # the config has its own
    assert "  --" not in theirs


def test_every_shared_flag_is_one_of_a_command(capsys, monkeypatch):
    texts = "".join(help_of(call, capsys, monkeypatch) for call in CALLS)
    assert not [name for name in SHARED if f"  --{name} " not in texts]
    assert all(name in TASK_NAMES for name in [*GENERATED, *LOADED])


def test_a_meaning_with_its_default_and_what_one_command_adds():
    assert flag("limit") == {"help": "Maximum number of prompts."}
    assert flag("limit", "Of each.", default="all", positional=True) == {
        "help": "Maximum number of prompts; default: all. Of each.",
        "positional": True,
    }


def test_no_old_name_is_left():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not names:
        pytest.skip("not in a git checkout")
    texts = [n for n in names if Path(n).suffix in (".md", ".yaml", ".sh", ".py", ".toml") or n == "Makefile"]
    texts = [n for n in texts if n not in ("docs/LOG.md", "CHANGELOG.md") and not n.startswith("tests/")]
    found = {name: OLD.findall((ROOT / name).read_text(encoding="utf-8")) for name in texts if (ROOT / name).is_file()}
    assert not {name: flags for name, flags in found.items() if flags}
