"""Several folders of episodes as one data set: what is joined, and what cannot be."""

import json
import shutil
from dataclasses import replace

import pytest

from stepcredit.cli import main
from stepcredit.episodes.delimiters import COLLECTED
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.joined import joint_step_rule, load_folders
from stepcredit.episodes.store import append_episodes
from stepcredit.errors import InputError
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.tasks.arithmetic import Arithmetic

TASK = Arithmetic()


def episode(prompt, completion, reward=1.0, prompt_id=None):
    return Episode(prompt=prompt, completion=completion, reward=reward, prompt_id=prompt_id or prompt,
                   stop_reason=StopReason.STOP)  # fmt: skip


def folder(path, *episodes, delimiters=None):
    append_episodes(path, episodes)
    if delimiters is not None:
        (path / COLLECTED).write_text(json.dumps({"step_delimiters": delimiters}))
    return str(path)


def test_folders_are_read_in_their_order_with_equal_responses(tmp_path):
    a = folder(tmp_path / "a", episode("1+1=", "2"), episode("2+2=", "4"))
    b = folder(tmp_path / "b", episode("1+1=", "2"))
    for order, read in (([a, b], ["2", "4", "2"]), ([b, a], ["2", "2", "4"])):
        assert [e.completion for store in load_folders(order) for e in store] == read


def test_the_same_episodes_are_not_trained_on_twice(tmp_path):
    a = folder(tmp_path / "a", episode("1+1=", "2"))
    with pytest.raises(InputError, match=r"holds the same episodes as .*a/episodes-00000.parquet; give each"):
        load_folders([a, a])
    folder(tmp_path / "b", episode("2+2=", "4"))
    shutil.copy(tmp_path / "a" / "episodes-00000.parquet", tmp_path / "b" / "episodes-00001.parquet")
    with pytest.raises(InputError, match=r"b/episodes-00001.parquet: holds the same episodes as .*a/episodes-00000"):
        load_folders([a, str(tmp_path / "b")])
    shutil.copy(tmp_path / "a" / "episodes-00000.parquet", tmp_path / "a" / "episodes-00001.parquet")
    load_folders([a])  # in one folder it is as before


def test_a_prompt_id_is_one_prompt(tmp_path):
    a = folder(tmp_path / "a", episode("1+1=", "2", prompt_id="7"))
    b = folder(tmp_path / "b", episode("3+1=", "4", prompt_id="7"))
    with pytest.raises(InputError, match=r"b: prompt id '7' is not the prompt that it is in .*a; "):
        load_folders([a, b])


def test_steps_end_alike_or_as_the_flag_says(tmp_path):
    a = folder(tmp_path / "a", episode("1+1=", "2"), delimiters=["\n"])
    b = folder(tmp_path / "b", episode("2+2=", "4"), delimiters=["\n", ". "])
    c = folder(tmp_path / "c", episode("3+3=", "6"))  # imported: line breaks
    assert joint_step_rule(None, [a, c]).delimiters == ("\n",)
    with pytest.raises(InputError, match=r"b: its steps end at '\\n', '. ', those of .*a at '\\n'; give --step_del"):
        joint_step_rule(None, [a, c, b])
    assert joint_step_rule([";"], [a, b]).delimiters == (";",)


def test_training_counts_and_limits_the_responses_of_all_folders(tmp_path, capsys):
    """Both folders have the same prompts: limits per prompt hold across them, and pairs are drawn across them."""
    policy_from_scratch(TASK.tokenizer(), ModelSize(16, 32, 1, 2), seed=0).save_pretrained(tmp_path / "policy")
    TASK.tokenizer().save_pretrained(tmp_path / "policy")
    drawn = TASK.demonstrations(4, 0)
    append_episodes(tmp_path / "right", [replace(e, reward=1.0) for e in drawn])
    append_episodes(tmp_path / "wrong", [replace(e, reward=0.0, sample=1) for e in drawn])
    command = ["train", "--model", str(tmp_path / "policy"), "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"]
    folders = ["--episodes", str(tmp_path / "right"), str(tmp_path / "wrong")]
    assert main([*command, "--method", "dpo", "--dry_run", *folders]) == 0
    assert "8 episodes, 4 items" in capsys.readouterr().out
    again = [replace(e, reward=1.0, sample=2) for e in drawn]
    folders.append(str(append_episodes(tmp_path / "more", again).parent))
    assert main([*command, "--method", "oreo", "--max_per_outcome", "1", "--dry_run", *folders]) == 0
    assert "8 episodes" in (printed := capsys.readouterr().out)
    assert "; left out: 4 balanced" in printed
    (tmp_path / "c.yaml").write_text(f"episodes: [{folders[1]}, {folders[1]}]\n")
    assert main([*command, "--method", "oreo", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "holds the same episodes as" in capsys.readouterr().err
