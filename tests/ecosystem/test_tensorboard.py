"""`--report_to tensorboard` writes the training curve."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.cli import main
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import append_episodes


def test_its_files_hold_the_curve(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "policy")
    byte_tokenizer().save_pretrained(tmp_path / "policy")
    said = ["4", "no idea", "4\nbecause 2+2=4"]
    append_episodes(
        tmp_path / "episodes",
        [Episode(prompt=f"{i}+2=", completion=said[i % 3], reward=float(i % 2), prompt_id=str(i)) for i in range(6)],
    )
    flags = {
        "model": tmp_path / "policy", "episodes": tmp_path / "episodes", "output_dir": tmp_path / "out", "max_steps": 3,
        "logging_steps": 1, "report_to": "tensorboard", "use_cpu": "true", "per_device_train_batch_size": 2,
    }  # fmt: skip
    assert main(["train", "--method", "oreo", *(x for k, v in flags.items() for x in (f"--{k}", str(v)))]) == 0
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    curve = json.loads((tmp_path / "out" / "curves.json").read_text())["oreo"]
    for ours, theirs in {"loss/policy": "train/loss/policy", "values/mean": "train/values/mean"}.items():
        points = [(event.step, event.value) for event in events.Scalars(theirs)]
        assert [step for step, _ in points] == [1, 2, 3]
        assert [value for _, value in points] == pytest.approx([point[ours] for point in curve], rel=1e-5)
