"""`stepcredit push`: the model card, and what is uploaded; the hub is a stand-in."""

import re
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.cli import main
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import append_episodes
from stepcredit.models.heads.value_heads import values_at_positions
from stepcredit.models.loading import load_value_model, value_model_from
from stepcredit.results.row_files import write_rows
from stepcredit.results.schema import AccuracyRow, ValueRow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A finished run of one step, results and a credit page."""
    root = tmp_path_factory.mktemp("push")
    tiny_llama().save_pretrained(root / "start")
    byte_tokenizer().save_pretrained(root / "start")
    said = ["4", "no idea"]
    append_episodes(
        root / "episodes",
        [Episode(prompt=f"{i}+2=", completion=said[i % 2], reward=float(i % 2), prompt_id=str(i)) for i in range(4)],
    )
    flags = {
        "model": root / "start", "episodes": root / "episodes", "output_dir": root / "run", "max_steps": 1,
        "learning_rate": 2e-5, "report_to": "none", "use_cpu": "true", "save_strategy": "steps", "save_steps": 1,
    }  # fmt: skip
    assert main(["train", "--method", "oreo", *(x for k, v in flags.items() for x in (f"--{k}", str(v)))]) == 0
    about = {"task": "gsm8k", "split": "test", "seed": 0, "method": "run"}
    (root / "results").mkdir()
    write_rows(root / "results" / "results.json", [
        AccuracyRow(**about, search="greedy", width=1, n=300, accuracy=0.4731, stderr=0.029),
        AccuracyRow(**about, search="beam", width=5, n=300, accuracy=0.52, stderr=0.03),
    ])  # fmt: skip
    write_rows(root / "results" / "value.json", [
        ValueRow(**about, metric="auc_within_prompt", at=0.5, estimate=0.71, low=0.66, high=0.75, n=900, prompts=200),
    ])  # fmt: skip
    (root / "credit").mkdir()
    (root / "credit" / "credit.html").write_text("<p>credit</p>")
    return root


def push(root, *flags):
    return main(["push", str(root / "run"), "--hub_model_id", "someone/oreo-tiny", *map(str, flags)])


def test_the_card_carries_results_credit_and_settings(root, capsys):
    flags = ["--results", root / "results", "--credit", root / "credit", "--base_model", "org/base"]
    assert push(root, *flags, "--dry_run", "true") == 0
    assert capsys.readouterr().out == f"{root / 'run' / 'README.md'}: written\n"
    card = ModelCard.load(root / "run" / "README.md")
    assert (card.data.base_model, card.data.library_name) == ("org/base", "transformers")
    assert {"stepcredit", "oreo"} <= set(card.data.tags)
    found = {(r.dataset_name, r.dataset_split, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert found == {
        ("gsm8k", "test", "accuracy, greedy"): 0.4731,
        ("gsm8k", "test", "accuracy, step beam, width 5"): 0.52,
    }
    text = card.text
    assert "Trained with OREO by stepcredit" in text
    assert "from [org/base](https://huggingface.co/org/base) on 4 scored responses." in text
    assert "| gsm8k (test) | greedy | 300 | 1 | 47.3 ± 2.9 |" in text
    assert "| gsm8k (test) | step beam, width 5 | 300 | 1 | 52.0 ± 3.0 |" in text
    assert "(AUC), after 50% of the steps | 0.71 | 0.66 to 0.75 |" in text
    assert "[credit.html](credit.html)" in text
    assert "| learning_rate | 2e-05 |" in text
    assert "| max_steps | 1 |" in text
    assert "num_train_epochs" not in text
    assert str(root) not in text


def test_without_results_and_credit_there_are_no_such_sections(root):
    assert push(root, "--dry_run", "true") == 0
    text = (root / "run" / "README.md").read_text()
    assert "## Use" in text
    assert not {"## Results", "## Credit"} & set(text.splitlines())
    assert "base_model" not in text
    assert str(root) not in text


def test_the_lines_of_the_card_load_the_models_and_give_our_v(root):
    assert push(root, "--dry_run", "true") == 0
    code = re.search(r"```python\n(.*?)```", (root / "run" / "README.md").read_text(), re.DOTALL)[1]
    names = {}
    exec(code.replace("someone/oreo-tiny", str(root / "run")), names)
    ours = load_value_model(str(root / "run" / "value")).eval()
    with torch.no_grad():
        expected = ours(**byte_tokenizer()("1 + 1 = 2", return_tensors="pt")).logits[0, :, 0]
    torch.testing.assert_close(names["value"], expected, atol=1e-6, rtol=0)
    assert names["policy"].config.vocab_size == ours.config.vocab_size


def test_v_of_bins_is_their_mean_in_the_card_too(root, tmp_path):
    shutil.copytree(root / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "value")
    value = value_model_from(tiny_llama(), bins=[0.0, 0.25, 1.0])
    torch.nn.init.normal_(value.score.weight)
    value.save_pretrained(tmp_path / "run" / "value")
    assert push(tmp_path, "--dry_run", "true") == 0
    code = re.search(r"```python\n(.*?)```", (tmp_path / "run" / "README.md").read_text(), re.DOTALL)[1]
    names = {}
    exec(code.replace("someone/oreo-tiny", str(tmp_path / "run")), names)
    prompt = byte_tokenizer()("1 + 1 = 2", return_tensors="pt")
    ours = values_at_positions(load_value_model(str(tmp_path / "run" / "value")).eval(), **prompt)
    torch.testing.assert_close(names["value"], ours[0], atol=1e-6, rtol=0)


def test_results_of_several_seeds_are_their_mean(root, tmp_path):
    about = {"task": "gsm8k", "split": "test", "method": "run", "search": "greedy", "n": 300}
    rows = [AccuracyRow(**about, seed=k, accuracy=a, stderr=0.02) for k, a in enumerate((0.4, 0.5, 0.6))]
    write_rows(tmp_path / "results.json", rows)
    assert push(root, "--results", tmp_path, "--dry_run", "true") == 0
    assert "| gsm8k (test) | greedy | 300 | 3 | 50.0 ± 5.8 |" in (root / "run" / "README.md").read_text()


def test_results_of_other_methods_are_refused(root, tmp_path, capsys):
    about = {"task": "gsm8k", "split": "test", "search": "greedy", "seed": 0, "n": 300, "accuracy": 0.4, "stderr": 0.02}
    write_rows(tmp_path / "results.json", [AccuracyRow(**about, method=name) for name in ("sft", "oreo")])
    assert push(root, "--results", tmp_path) == 2
    assert "holds results of several methods (oreo, sft); evaluate this policy alone" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("of some HTTP library\nof two lines")])
def test_a_failed_upload_is_one_line(root, monkeypatch, capsys, error):
    def fails(self, *given, **more):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fails)
    assert push(root) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith("; log in with `hf auth login`, and run the command again\n")


def test_a_name_that_the_hub_cannot_have_is_one_line(root, capsys):
    assert main(["push", str(root / "run"), "--hub_model_id", "a/b/c"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("stepcredit: error: a/b/c: cannot be uploaded (Repo id must be in the form")
    assert said.count("\n") == 1


def test_models_and_card_are_uploaded_and_neither_settings_nor_checkpoints(root, monkeypatch, capsys):
    asked = []

    class Hub:
        def create_repo(self, repo_id, **more):
            asked.append(("create", repo_id, more))

        def upload_folder(self, *, repo_id, folder_path, allow_patterns):
            inside = [p.relative_to(folder_path).as_posix() for p in sorted(folder_path.rglob("*")) if p.is_file()]
            asked.append(
                (
                    "upload",
                    repo_id,
                    set(huggingface_hub.utils.filter_repo_objects(inside, allow_patterns=allow_patterns)),
                )
            )

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push(root, "--credit", root / "credit") == 0
    (_, created, more), (_, uploaded, files) = asked
    assert created == uploaded == "someone/oreo-tiny"
    assert more == {"private": True, "exist_ok": True}
    assert {"README.md", "credit.html", "curves.json", "policy/model.safetensors", "value/model.safetensors"} <= files
    assert not [name for name in files if name.startswith("checkpoint-") or name in ("run.json", "training_args.json")]
    assert capsys.readouterr().out.endswith("https://huggingface.co/someone/oreo-tiny\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--results", "none"], "holds no results.json with rows; run stepcredit evaluate into it"),
        (["--credit", "none"], "none/credit.html: no credit page; run stepcredit credit"),
    ],
)
def test_what_is_missing_is_named(root, capsys, flags, message):
    assert push(root, *flags) == 2
    assert message in capsys.readouterr().err
    assert main(["push", str(root / "results"), "--hub_model_id", "a/b"]) == 2
    assert "holds no finished training run" in capsys.readouterr().err
