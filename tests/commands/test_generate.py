"""`stepcredit generate` and `stepcredit.search`: responses to prompts of one's own, with V after every step."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import stepcredit
from doubles.real import smollm2_folder
from stepcredit.cli import main
from stepcredit.engines.engine import Request, SamplingParams, load_engine
from stepcredit.errors import InputError
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.models.loading import value_model_from
from stepcredit.models.states import ValueStates
from stepcredit.rollouts.generate import Answer, read_prompts
from stepcredit.rollouts.models import name_of
from stepcredit.searching.scorers import Reading, ValueScorer
from stepcredit.tasks.arithmetic import Arithmetic

TASK = Arithmetic()
PROMPTS = [problem.text for problem in TASK.problems("test", 3)]


@pytest.fixture(scope="module")
def models():
    """A policy, a value model and a tokenizer of few words, so that responses end and steps do."""
    tokenizer = TASK.tokenizer()
    policy = policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(0, 0.3)
    value = value_model_from(policy)
    with torch.no_grad():
        value.score.weight.normal_(0, 1.0)
    return policy, value, tokenizer


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """The same, saved."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in zip(("policy", "value"), models, strict=False):
        model.save_pretrained(folder / name)
        models[2].save_pretrained(folder / name)
    return str(folder / "policy"), str(folder / "value")


def found(models, prompts=PROMPTS, **settings):
    policy, value, tokenizer = models
    given = {"max_new_tokens": 40, "step_delimiters": [r"\n"], **settings}
    return stepcredit.search(prompts, policy, value, tokenizer=tokenizer, **given)


def is_plain(answer, tokenizer):
    """Whether the text is all of the response: these models write special tokens too, which no text has."""
    return len(tokenizer(answer.text)["input_ids"]) + (answer.stop_reason == "stop") == answer.tokens


def test_greedy_answers_are_the_engines(models):
    policy, _, tokenizer = models
    answers = found(models)
    engine = load_engine(policy, tokenizer=tokenizer)
    requests = [Request(tuple(tokenizer(p)["input_ids"]), str(k)) for k, p in enumerate(PROMPTS)]
    for answer, drawn in zip(answers, engine.generate(requests, SamplingParams(40, temperature=0.0)), strict=True):
        assert (answer.tokens, answer.stop_reason) == (len(drawn.ids), drawn.stop_reason)
        assert "".join(answer.steps) == answer.text


def test_values_are_those_of_the_states_before_and_after_each_step(models):
    """Read again from prefixes, one by one."""
    _, value, tokenizer = models
    checked = 0
    for answer in found(models, search="sample", num_generations=16, seed=3):
        if not is_plain(answer, tokenizer):
            continue
        assert len(answer.values) == len(answer.steps) + 1
        for k, v in enumerate(answer.values):
            if v is None:
                assert (answer.stop_reason, k) == ("length", len(answer.steps))
                continue
            ids = tokenizer(answer.prompt + "".join(answer.steps[:k]))["input_ids"]
            read = value(torch.tensor([ids])).logits[0, -1, 0].item()
            assert v == pytest.approx(read, abs=2e-4)
            checked += k > 0
        assert answer.value == (None if answer.stop_reason == "length" else answer.values[-1])
    assert checked > 5


def test_best_of_is_the_most_valued_of_the_samples(models):
    samples = found(models, search="sample", num_generations=6, seed=1)
    best = found(models, search="best-of", width=6, seed=1)
    for k, answer in enumerate(best):
        finished = [a for a in samples[6 * k : 6 * k + 6] if a.value is not None]
        assert answer == max(finished, key=lambda a: a.value)


def test_a_beam_answers_with_its_most_valued_response_whatever_the_batch(models):
    together = found(models, search="beam", width=2)
    apart = [answer for prompt in PROMPTS for answer in found(models, [prompt], search="beam", width=2)]
    assert [a.stop_reason for a in together] == ["stop"] * 3
    scorer, tokenizer = ValueScorer(models[1]), models[2]
    plain = [answer for answer in together if is_plain(answer, tokenizer)]
    assert plain
    for answer in plain:
        scoring, _, _ = scorer.start([tokenizer(answer.prompt)["input_ids"]])
        ids = [*tokenizer(answer.text)["input_ids"], tokenizer.eos_token_id]
        (value,), _ = scoring.score([Reading(0, tuple(ids), True)])
        assert answer.value == pytest.approx(value, abs=2e-4)
    assert together[0] == apart[0]


def test_where_v_was_trained_decides_what_is_read(models):
    _, value, _ = models
    there = value.config.__dict__.copy()
    try:
        ValueStates("step", ("+",), 8).describe(value.config)
        assert all(len(s) == 1 or s.count("+") < 2 for a in found(models, step_delimiters=None) for s in a.steps)
        with pytest.raises(InputError, match="step_delimiters: the value model was trained on steps that end after"):
            found(models, step_delimiters=["="])
        ValueStates("response", ("\n",), 8).describe(value.config)
        answer = found(models)[0]
        assert answer.values[0] is not None
        assert set(answer.values[1:]) == {None}
        with pytest.raises(InputError, match="trained on prompts only"):
            found(models, search="best-of")
    finally:
        value.config.__dict__.clear()
        value.config.__dict__.update(there)


def test_the_command_writes_rows_and_shows_untrusted_text_as_it_is(folders, tmp_path, capsys):
    policy, value = folders
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    out = tmp_path / "answers.jsonl"
    given = ["--model", policy, "--value_model", value, "--max_new_tokens", "20"]
    assert main(["generate", str(rows), *given, "--output", str(out), "--search", "best-of", "--width", "3"]) == 0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in written] == PROMPTS
    assert list(written[0]) == ["prompt", "completion", "stop_reason", "tokens", "value", "value_initial", "steps"]
    assert main(["generate", str(rows), *given, "--output", str(out)]) == 2
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert main(["generate", *PROMPTS[:2], *given]) == 0
    shown = capsys.readouterr().out
    assert PROMPTS[0] in shown
    assert "tokens" in shown


def test_what_steers_a_terminal_is_no_part_of_what_is_shown(capsys):
    from rich.console import Console

    from stepcredit.commands.generate import _show

    _show(Answer("[red]p\x1b[31m", "[bold]a\x1b]0;t\x07\nb", "stop", 3), Console())
    shown = capsys.readouterr().out
    assert "[red]p\ufffd[31m" in shown
    assert "[bold]a\ufffd]0;t\ufffd\nb" in shown


def test_prompts_of_a_file_or_the_texts_themselves(tmp_path):
    chat = [{"role": "user", "content": "hi"}]
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": chat}) + "\n" + json.dumps({"prompt": "x"}) + "\n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "x"}\n{"question": "y"}\n')
    assert read_prompts([str(tmp_path / "a.txt")]) == ["one", " two "]
    assert read_prompts([str(tmp_path / "a.jsonl")]) == [chat, "x"]
    assert read_prompts(["What is in a.txt"]) == ["What is in a.txt"]
    assert read_prompts(["a.txt", "b"]) == ["a.txt", "b"]
    with pytest.raises(InputError, match=r"b.jsonl:2: no prompt; add a column prompt"):
        read_prompts([str(tmp_path / "b.jsonl")])
    with pytest.raises(InputError, match=r"none.txt: cannot be read"):
        read_prompts([str(tmp_path / "none.txt")])


def asked(folders, tmp_path, *flags):
    """A command that writes answers to ten prompts in five batches, and its output."""
    policy, value = folders
    (tmp_path / "asked.txt").write_text("".join(f"{p}\n" for p in (PROMPTS * 4)[:10]))
    output = tmp_path / "answers.jsonl"
    command = ["generate", str(tmp_path / "asked.txt"), "--model", policy, "--value_model", value, "--output"]
    flags = ["--search", "sample", "--num_generations", "2", "--batch_size", "4", "--max_new_tokens", "8", *flags]
    return [*command, str(output), *flags], output


@pytest.fixture
def dies(monkeypatch):
    """A function that makes the engine die after so many batches; called without a number it does no more."""
    from stepcredit.engines import transformers

    whole = transformers.TransformersEngine.generate

    def after(batches=None):
        drawn = []

        def generate(self, requests, params):
            if batches is not None and len(drawn) == batches:
                raise KeyboardInterrupt
            drawn.append(len(requests))
            return whole(self, requests, params)

        monkeypatch.setattr(transformers.TransformersEngine, "generate", generate)
        return drawn

    return after


def test_an_interrupted_file_goes_on_and_is_that_of_an_undisturbed_run(folders, tmp_path, dies, capsys):
    command, output = asked(folders, tmp_path)
    assert main(command) == 0
    undisturbed = output.read_text()
    output.unlink()
    dies(3)
    assert main(command) == 130
    assert not output.exists()
    partial = tmp_path / "answers.jsonl.partial"
    lines = partial.read_bytes().splitlines(keepends=True)
    assert len(lines) == 12
    partial.write_bytes(b"".join(lines[:9]) + lines[9][:7])  # a kill within a write, after the first of two responses
    drawn = dies()
    assert main([*command, "--batch_size", "6"]) == 0
    assert drawn == [6, 6]
    assert output.read_text() == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "asked.txt"]
    assert "20 responses" in capsys.readouterr().out
    assert main(command) == 2
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert main([*command, "--overwrite", "true", "--search", "greedy", "--num_generations", "1"]) == 0
    assert len(output.read_text().splitlines()) == 10


def test_a_file_that_other_settings_have_begun_is_refused(folders, tmp_path, dies, capsys):
    command, output = asked(folders, tmp_path)
    dies(1)
    assert main(command) == 130
    dies()
    assert main([*command, "--seed", "1"]) == 2
    assert "was begun with seed 0 (now 1); delete it, or choose another --output" in capsys.readouterr().err
    (tmp_path / "asked.txt").write_text("another\n")
    assert main(command) == 2
    assert "was begun with prompts " in capsys.readouterr().err
    assert not output.exists()


def test_a_prompt_that_is_too_long_is_found_before_any_is_answered(folders, tmp_path, dies, capsys):
    command, _ = asked(folders, tmp_path)
    with (tmp_path / "asked.txt").open("a") as file:
        file.write("1 " * 5000)
    drawn = dies()
    assert main(command) == 2
    assert "prompt 11: the prompt has " in capsys.readouterr().err
    assert drawn == []
    assert [path.name for path in tmp_path.iterdir()] == ["asked.txt"]


def test_a_model_that_cannot_be_loaded_leaves_nothing(folders, tmp_path, capsys):
    command, _ = asked(folders, tmp_path)
    assert main([*command, "--value_model", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["asked.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"search": "mcts"}, "search: 'mcts' is none of greedy, sample, best-of, beam"),
        ({"search": "best-of", "width": 0}, "width: 0 must be 1 or more"),
        ({"num_generations": 2}, "num_generations: greedy gives one response per prompt"),
        ({"widht": 2}, "unknown setting 'widht'; did you mean width"),
        ({"search": "beam", "max_new_tokens": 0}, "max_new_tokens: 0 must"),
    ],
)
def test_bad_settings_are_one_line(models, settings, message):
    with pytest.raises(InputError, match=message):
        found(models, **settings)


def test_a_search_that_needs_values_says_so(models):
    with pytest.raises(InputError, match="search: beam needs --value_model"):
        stepcredit.search(PROMPTS, models[0], tokenizer=models[2], search="beam")


def test_a_reward_model_scores_each_response_after_its_own_prompt(models):
    policy, _, tokenizer = models
    torch.manual_seed(1)
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    reward = AutoModelForSequenceClassification.from_config(config).eval()
    reward.score.weight.data.normal_(0, 1.0)
    checked = set()
    for answer in found((policy, None, tokenizer), search="sample", num_generations=8, seed=3, reward_model=reward):
        assert (answer.value is None) == (answer.stop_reason == "length")
        if answer.value is None or not is_plain(answer, tokenizer):
            continue
        ids = [*tokenizer(answer.prompt)["input_ids"], *tokenizer(answer.text)["input_ids"], tokenizer.eos_token_id]
        assert answer.value == pytest.approx(reward(torch.tensor([ids])).logits.item(), abs=2e-4)
        checked.add(answer.prompt)
    assert len(checked) > 1


def test_a_model_in_memory_is_named_by_its_weights(models):
    policy = models[0]
    before = name_of(policy)
    assert before == name_of(policy)
    with torch.no_grad():
        policy.lm_head.weight[0, 0] += 1e-3
        changed = name_of(policy)
        policy.lm_head.weight[0, 0] -= 1e-3
    assert changed != before
    assert (name_of("p"), name_of(None)) == ("p", None)


def test_a_real_model_answers_a_chat(capsys):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    (answer,) = stepcredit.search(chat, smollm2_folder().as_posix(), max_new_tokens=24)
    assert "Paris" in answer.text
    assert answer.row["completion"] == [{"role": "assistant", "content": answer.text}]
    assert answer.value is None
    given = {"model": smollm2_folder().as_posix(), "max_new_tokens": 24}
    (text,) = stepcredit.search(chat[0]["content"], **given)
    assert (text.prompt, text.text) == (chat, answer.text)
    (plain,) = stepcredit.search("The capital of France is", chat=False, **given)
    assert plain.prompt == "The capital of France is"
    assert plain.text.startswith(" ")
