"""Small inputs from public bug reports, with tokenizers of the families that they came from."""

import importlib.util
import json
from pathlib import Path

import pytest

from stepcredit.cli import main
from stepcredit.episodes.encoding import decode, tokenise
from stepcredit.episodes.store import load_episodes
from stepcredit.episodes.turns import split_into_turns
from stepcredit.errors import InputError
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.logs.importers import episode_from_row
from stepcredit.models.chat_templates import with_chat_template
from stepcredit.models.loading import load_tokenizer

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
if not CASES.is_dir():
    pytest.skip(f"no cases in {CASES}", allow_module_level=True)

GEMMA_TURN = "<start_of_turn>user\n2+3?<end_of_turn>\n<start_of_turn>model\n"
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
CALL = "\n<tool_call>\nget_weather {'city': 'Paris'}\n</tool_call><|im_end|>"
ANSWERED = "\n<|im_start|>user\n<tool_response>\n22 degrees\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
EXPECTED = {
    ("chat_gemma", "gemma"): "<bos>"
    + GEMMA_TURN
    + "⟦It is 5.<end_of_turn>⟧\n<start_of_turn>user\nsure?<end_of_turn>\n<start_of_turn>model\n⟦yes<end_of_turn>⟧",
    ("rendered_prompt", "gemma"): "<bos>" + GEMMA_TURN + "⟦It is 5.<end_of_turn>⟧",
    ("double_end", "qwen"): "2+3?⟦5<|im_end|>⟧",
    ("tool_call", "qwen"): CHATML.format("weather?") + f"⟦Let me check.{CALL}⟧{ANSWERED}⟦It is 22 degrees.<|im_end|>⟧",
    ("tool_call_null", "qwen"): CHATML.format("weather?") + f"⟦{CALL}⟧{ANSWERED}⟦It is 22 degrees.<|im_end|>⟧",
    ("reasoning_content", "qwen"): CHATML.format("2+3?")
    + "⟦<think>\n2+3 makes 5, so I say 5.\n</think>\n\n5<|im_end|>⟧",
}
R1_TURN = "<bos><|User|>2+3?<|Assistant|><think>\n⟦2+3=5\n</think>\n\nIt is 5.<|eos|>⟧"


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Tokenizers by family."""
    spec = importlib.util.spec_from_file_location("toy_tokenizers", CASES / "toy_tokenizers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("toys")
    gemma = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "bos_post": True}
    qwen = {"pad": "<|endoftext|>", "eos": "<|im_end|>"}
    r1 = {"pad": "<pad>", "eos": "<|eos|>", "bos": "<bos>"}
    made = {
        "gemma": (["<pad>", "<bos>", "<eos>"], ["<start_of_turn>", "<end_of_turn>"], module.GEMMA, gemma),
        "qwen": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [], module.QWENTOOL, qwen),
        "r1": (["<pad>", "<bos>", "<|eos|>"], ["<|User|>", "<|Assistant|>"], module.R1, r1),
    }
    for name, (named, added, template, given) in made.items():
        module.tok(str(folder / name), named, added, template, **given)
    return {name: load_tokenizer(str(folder / name)) for name in made}


def episode_of(case):
    return episode_from_row(json.loads((CASES / f"{case}.jsonl").read_text().splitlines()[0]))


def marked(tokens, tokenizer):
    out, acted = "", False
    for token, acts in zip(tokens.ids.tolist(), tokens.action_mask.tolist()):
        out += ("⟦" if acts else "⟧") if acts != acted else ""
        out, acted = out + decode([token], tokenizer), acts
    return out + "⟧" * acted


@pytest.mark.parametrize(("case", "family"), EXPECTED, ids=[case for case, _ in EXPECTED])
def test_the_actions_of_a_case(case, family, toys):
    assert marked(tokenise(episode_of(case), toys[family]), toys[family]) == EXPECTED[case, family]


def test_a_system_message_that_the_template_refuses(toys):
    episode = episode_of("chat_system")
    with pytest.raises(InputError, match=r"System role not supported.*--merge_system_message true"):
        tokenise(episode, toys["gemma"])
    tokenizer = with_chat_template(toys["gemma"], None, merge_system_message=True)
    both = "<bos><start_of_turn>user\nbe brief\n\n2+3?<end_of_turn>\n<start_of_turn>model\n⟦It is 5.<end_of_turn>⟧"
    assert marked(tokenise(episode, tokenizer), tokenizer) == both


def test_a_thought_that_the_template_drops(toys):
    episode = episode_of("r1_chat")
    with pytest.raises(InputError, match=r"drops the reasoning of the message.*--split_turns true"):
        tokenise(episode, toys["r1"])
    (turn,) = split_into_turns(episode)
    assert marked(tokenise(turn, toys["r1"], as_written=True), toys["r1"]) == R1_TURN


@pytest.mark.parametrize("case", ["label_text", "blank_last_line"])
def test_a_log_that_is_read(case, tmp_path, capsys):
    assert main(["import", str(CASES / f"{case}.jsonl"), "--output_dir", str(tmp_path / "episodes")]) == 0
    assert capsys.readouterr().out.startswith("1 rows read, 1 episodes written")
    (episode,) = load_episodes(tmp_path / "episodes")
    assert (episode.prompt, episode.completion, episode.reward) == ("q", "a", 1.0)


def test_the_command_line_names_the_way_out_and_takes_it(toys, tmp_path, capsys):
    """One line, exit code 2, nothing written; then with the setting that the line names."""
    for family, case, way in (
        ("gemma", "chat_system", "--merge_system_message"),
        ("r1", "r1_chat", "--split_turns"),
    ):
        model, episodes, out = (tmp_path / family / name for name in ("model", "episodes", "out"))
        policy_from_scratch(toys[family], ModelSize(16, 32, 1, 2), seed=0).save_pretrained(model)
        toys[family].save_pretrained(model)
        assert main(["import", str(CASES / f"{case}.jsonl"), "--output_dir", str(episodes)]) == 0
        command = ["train", "--method", "sft", "--model", str(model), "--episodes", str(episodes)]
        command += ["--output_dir", str(out), "--max_steps", "1", "--report_to", "none"]
        capsys.readouterr()
        assert main(command) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("stepcredit: error:")
        assert f"{way} true" in said
        assert not out.exists()
        assert main([*command, way, "true"]) == 0
        assert (out / "policy" / "model.safetensors").exists()
        if family == "gemma":  # the policy keeps the template that it was taught with
            rendered = load_tokenizer(str(out / "policy")).apply_chat_template(
                [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], tokenize=False
            )
            assert rendered == "<bos><start_of_turn>user\na\n\nb<end_of_turn>\n"
