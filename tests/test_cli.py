"""Help that teaches, settings from a file, and errors in one line with exit code 2."""

import re

import pytest

from stepcredit.cli import COMMANDS, main
from stepcredit.settings import OTHER_NAMES


def test_overview(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}" in out for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--config FILE.yaml" in out
    assert f"usage: stepcredit {command}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["train", "--method", "grpo"],
         "--method: 'grpo' is no method (online methods sample while they train, and are not here); choose from "
         "sft, rft, dpo, kto, topr, oapl, dro, iql, dqo, oreo; oreo is the one to begin with"),
        (["train"], "--method: is required; choose from"),
        (["train", "--method", "oreo", "--model", "m", "--episodes", "e/", "--output_dir", "e"],
         "output_dir: is a folder of --episodes; give another one"),
        (["inspect", "--episodes", "e"], "EPISODES comes first, without a flag; see stepcredit inspect --help"),
        (["generate", "--prompt", "q", "--model", "m"], "PROMPTS comes first, without a flag"),
        (["import", "x.jsonl", "--output_dir", "o", "--columns", "question=prompt"],
         "columns: did you mean prompt=question? ours comes first; 'question' is none of"),
        (["train", "--method", "oreo", "--method=dqo"], "--method: is given twice"),
        (["train", "--method", "oreo"], "the following arguments are required: --model, --episodes"),
        (["train", "--method", "oreo", "--no_length_sorted"], "arguments are required: --model, --episodes"),
        (["train", "--method", "oreo", "--episode", "x"], "unknown flag '--episode'; did you mean --episodes?"),
        (["train", "--method", "oreo", "--model", "m", "--episodes", "e", "--output_dir", "o", "--beta", "-1"],
         "beta: -1.0 must be above 0"),
        (["train", "--method", "oreo", "--model", "m", "--episodes", "e", "--output_dir", "o", "--level", "word"],
         "invalid choice: 'word'"),
        (["collect", "--task", "arithmetic", "--model", "nowhere", "--output_dir", "x", "--config", "none.yaml"],
         "none.yaml: cannot be read (No such file"),
        (["collect", "--task", "chess", "--model", "p", "--output_dir", "x"], "task: unknown task 'chess'"),
        (["evaluate", "--task", "arithmetic", "--model", "no/such/folder", "--output_dir", "x"], "no such folder"),
        (["inspect", "no-such-folder"], "no-such-folder"),
        (["inspect", "--config"], "--config: needs a value"),
        (["train", "--method", "oreo", "--model", "m", "--episodes", "e", "--output_dir", "o", "--lr", "1"],
         "unknown flag '--lr'; did you mean --learning_rate?; see"),
        (["collect", "--task", "chain", "--model", "m", "--output_dir", "o", "--max_tokens", "9"],
         "unknown flag '--max_tokens'; did you mean --max_new_tokens?; see"),
        (["inspect", "x", "--tokeniser", "y"], "unknown flag '--tokeniser'; did you mean --tokenizer?; see"),
        (["inspect", "x", "--model", "y"], "unknown flag '--model'; see stepcredit inspect --help"),
        (["report", "no-such-folder"], "no-such-folder"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("stepcredit: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_settings_from_a_file_are_checked_by_name_and_flags_win(tmp_path, capsys):
    yaml = tmp_path / "c.yaml"
    yaml.write_text("task: arithmetic\nmodel: p\nnum_generatoins: 3\n")
    assert main(["collect", "--config", str(yaml), "--output_dir", "x"]) == 2
    assert f"{yaml}: unknown setting 'num_generatoins'; did you mean num_generations?" in capsys.readouterr().err
    yaml.write_text("task: arithmetic\nmodel: p\nnum_generations: 3\nlimit: 7\ndry_run: true\n")
    assert main(["collect", "--config", str(yaml), "--output_dir", str(tmp_path / "x"), "--num_generations", "5"]) == 0
    assert "7 prompts, 35 responses" in capsys.readouterr().out
    yaml.write_text("- a\n")
    assert main(["collect", f"--config={yaml}"]) == 2
    assert "must be a mapping of settings to values" in capsys.readouterr().err


def test_positionals_may_stand_in_the_file(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q", "completion": "a", "reward": 1}\n')
    yaml = tmp_path / "c.yaml"
    yaml.write_text(f"files: [{tmp_path / 'rows.jsonl'}]\noutput_dir: {tmp_path / 'e'}\n")
    assert main(["import", "--config", str(yaml)]) == 0
    assert main(["inspect", str(tmp_path / "e"), "--json"]) == 0


def test_what_must_be_given_stands_first_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["collect", "--help"])
    flags = re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE)
    assert set(flags[:3]) == {"task", "model", "output_dir"}
    with pytest.raises(SystemExit):
        main(["train", "--method", "oreo", "--help"])
    ours, theirs = capsys.readouterr().out.split("settings of transformers.TrainingArguments:")
    assert set(re.findall(r"^  --(\w+)", ours, re.MULTILINE)[:2]) == {"model", "episodes"}
    assert "--kl_coef" in ours
    assert "--per_device_train_batch_size" in ours
    assert "per_device_eval_batch_size" in theirs


def test_every_name_that_is_suggested_for_another_is_a_flag(capsys):
    for command in (["train", "--method", "oreo"], ["collect"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
    flags = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    assert set(OTHER_NAMES.values()) <= flags
