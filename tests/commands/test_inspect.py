import io
import json

import pytest
from rich.console import Console

from stepcredit.commands.inspect import InspectConfig, inspect_episodes
from stepcredit.episodes.delimiters import step_rule
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.episodes.summary import step_previews
from stepcredit.errors import InputError
from stepcredit.report.dataset import dataset_tables, preview_panels
from stepcredit.verdict import Verdict


def make(prompt_id, reward, completion, **given):
    return Episode(prompt="1+1=", completion=completion, reward=reward, prompt_id=prompt_id, **given)


@pytest.fixture
def folder(tmp_path):
    rows = [
        make("a", 1.0, "one. two\nthree"),
        make("a", 0.0, "no", sample=1),
        make("a", 0.0, "cut", sample=2, stop_reason=StopReason.LENGTH),
        make("b", 1.0, "[red]2\n", steps=("[red]", "2\n")),
    ]
    append_episodes(tmp_path / "episodes", rows)
    return str(tmp_path / "episodes")


def text(renderable):
    console = Console(width=100, color_system=None, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def cells(output, name):
    line = next(line for line in output.splitlines() if line.startswith(f"│ {name} "))
    return [cell.strip() for cell in line.split("│")[2:-1]]


def test_summary(folder):
    summary = inspect_episodes(InspectConfig(folder))
    assert (summary.episodes, summary.prompts, summary.truncated) == (4, 2, 0.25)
    assert summary.steps.mean == 1.5
    assert inspect_episodes(InspectConfig(folder, step_delimiters=["\\n", ". "])).steps.mean == 1.75
    assert json.dumps(summary.to_dict())


def test_tables(folder):
    output = text(dataset_tables(inspect_episodes(InspectConfig(folder))))
    assert cells(output, "episodes") == ["4", ""]
    assert cells(output, "right") == ["2", "50.0%"]
    assert cells(output, "truncated") == ["1", "25.0%"]
    # Means 1/3 of three and 1 of one; sums off by -1/2 and 1/2: sqrt(2 · 1/2) / 4.
    assert cells(output, "mean reward ± standard error") == ["0.5000 ± 0.2500", ""]
    assert cells(output, "0.4 to 0.6") == ["1", "50.0%", "█" * 20]
    assert cells(output, "0") == ["0", "0.0%", ""]
    assert cells(output, "no training signal: a single response") == ["1", "50.0%", ""]
    assert cells(output, "steps per response") == ["1.5", "1.5", "2.0", "2"]
    assert cells(output, "responses per prompt") == ["2.0", "2.0", "2.9", "3"]
    assert "pass --tokenizer to count tokens" in output
    assert "response, tokens" not in output


def test_tokens(folder, tmp_path, byte_tokenizer):
    byte_tokenizer.save_pretrained(tmp_path / "tokenizer")
    output = text(dataset_tables(inspect_episodes(InspectConfig(folder, tokenizer=str(tmp_path / "tokenizer")))))
    # Bytes and an end token, save for the truncated one: 15, 3, 3, 8.
    assert cells(output, "response, tokens") == ["7.2", "5.5", "13.9", "15"]
    assert "pass --tokenizer" not in output
    with pytest.raises(InputError, match="no such folder"):
        inspect_episodes(InspectConfig(folder, tokenizer=str(tmp_path / "nowhere")))


def test_remarks(tmp_path):
    append_episodes(tmp_path, [make("a", None, "x"), Episode(prompt="2", completion="x", reward=None, prompt_id="a")])
    output = text(dataset_tables(inspect_episodes(InspectConfig(str(tmp_path)))))
    assert "1 prompt ids belong to more than one prompt" in output
    assert "mean reward" not in output
    assert cells(output, "undecided") == ["2", "100.0%"]
    assert cells(output, "no right or wrong response") == ["1", "100.0%", ""]


@pytest.mark.parametrize("plain", [True, False])
def test_right_begins_at_the_threshold(tmp_path, plain):
    """Rewards of 1 to 5: all are right from 1 on, two of four from 4 on; from columns and from episodes."""
    steps = None if plain else ("x",)
    rows = [make(f"q{k // 2}", reward, "x", sample=k % 2, steps=steps) for k, reward in enumerate([1.0, 2.0, 4.0, 5.0])]
    append_episodes(
        tmp_path, [*rows, make("both", 4.0, "x", steps=steps), make("both", 4.0, "x", sample=1, steps=steps)]
    )
    decided = [
        make("verdict", 1.0, "x", verdict=Verdict.WRONG),
        make("verdict", 5.0, "x", sample=1, verdict=Verdict.RIGHT),
    ]
    append_episodes(tmp_path / "decided", decided)
    summary = inspect_episodes(InspectConfig(str(tmp_path / "decided"), reward_threshold=9.0))
    assert (summary.right, summary.wrong) == (0.5, 0.5)  # a verdict comes first
    shown = {}
    for threshold in (1.0, 4.0):
        config = InspectConfig(str(tmp_path), reward_threshold=threshold)
        shown[threshold] = text(dataset_tables(inspect_episodes(config)))
    assert cells(shown[1.0], "right") == ["6", "100.0%"]
    assert cells(shown[4.0], "right") == ["4", "66.7%"]
    assert cells(shown[4.0], "no training signal: all right") == ["1", "33.3%", ""]
    assert "5 rewards are neither 0 nor 1; right is a reward of at least 4 (--reward" in shown[4.0]


def test_preview(folder):
    output = text(preview_panels(step_previews(load_episodes(folder)[:1], StepRule())))
    assert "prompt a, sample 0, reward 1.0" in output
    assert "[0] 'one. two\\n'" in output
    assert "[1] 'three'" in output
    assert "sample 1" not in output
    output = text(preview_panels(step_previews(load_episodes(folder)[:9], StepRule((". ",)))))
    assert "[1] 'two\\nthree'" in output
    assert "[0] '[red]'" in output
    assert "[1] '2\\n'" in output


def test_delimiters_as_typed(tmp_path):
    def delimiters(typed):
        return step_rule(typed, tmp_path).delimiters

    assert delimiters(["\\n", "\\t\\\\n", ". ", "é"]) == ("\n", "\t\\n", ". ", "é")
    assert delimiters(["none"]) == delimiters([]) == ()
    assert delimiters(["none", ". "]) == ("none", ". ")
    with pytest.raises(InputError, match="step_delimiters: a delimiter must not be empty"):
        delimiters([""])
    for bad in ("\\d", "a\\"):
        with pytest.raises(InputError, match="unknown escape"):
            delimiters([bad])


@pytest.mark.parametrize("expected", [("\n", ". ", ".$ "), ("\n",), ()])
def test_steps_end_as_in_the_task_that_the_episodes_were_collected_for(expected, tmp_path):
    assert step_rule(None, tmp_path).delimiters == ("\n",)
    (tmp_path / "collect.json").write_text(json.dumps({"task": "any", "step_delimiters": expected}))
    assert step_rule(None, tmp_path).delimiters == expected
    for damaged in ("[]", "{}", "", '{"step_delimiters": 3}'):
        (tmp_path / "collect.json").write_text(damaged)
        with pytest.raises(InputError, match=r"collect\.json: (damaged or half-written|has no step delimiters)"):
            step_rule(None, tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder of episodes"):
        inspect_episodes(InspectConfig(str(tmp_path / "nowhere")))
