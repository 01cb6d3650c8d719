"""Chats under the templates of published models, written out by hand: ⟦ ⟧ are actions, | begins a step."""

import copy
import itertools

import numpy as np
import pytest
from transformers import GenerationConfig

from doubles.real import TOKENIZERS, real_tokenizer
from stepcredit.episodes.alignment import align
from stepcredit.episodes.conversation import Conversation
from stepcredit.episodes.encoding import _encoded_spans, chat_spans, decode, prompt_ids, response_text, tokenise
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.turns import split_into_turns, turn_ends
from stepcredit.errors import InputError
from stepcredit.models.chat_templates import with_chat_template

CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
SMOL = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
NO_THOUGHT = "<think>\n\n|</think>\n\n|"  # Qwen3 has one in every turn; as lines go it is two steps


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


CHATS = {
    "one": [user("2+3?"), assistant("2+3\nIs 5.")],
    "two": [user("2+3?"), assistant("It is 5."), user("sure?"), assistant("yes")],
    "system": [{"role": "system", "content": "be brief"}, user("2+3?"), assistant("5")],
    "empty": [user("2+3?"), assistant("")],
    "cut": [user("2+3?"), assistant("It is")],
    "thought": [user("2+3?"), assistant("<think>\n2+3=5, so 5.\n</think>\n\n5")],
    "ended": [user("2+3?"), assistant("5{end}")],
    "tool": [
        user("weather?"),
        assistant("I ask.", tool_calls=[CALL]),
        {"role": "tool", "content": "22"},
        assistant("22."),
    ],
}


def chatml(*turns, before=""):
    return before + "\n".join(turns)


def chatml_turn(asked, said, role="user"):
    return f"<|im_start|>{role}\n{asked}<|im_end|>\n<|im_start|>assistant\n⟦{said}|<|im_end|>⟧"


def gemma_turn(asked, said):
    return f"<start_of_turn>user\n{asked}<end_of_turn>\n<start_of_turn>model\n⟦{said}|<end_of_turn>⟧"


def llama_turn(asked, said):
    header = "<|start_header_id|>user<|end_header_id|>\n\n" + asked + "<|eot_id|>"
    return header + f"<|start_header_id|>assistant<|end_header_id|>\n\n⟦{said}|<|eot_id|>⟧"


def deepseek_turn(asked, said):
    return f"<｜User｜>{asked}<｜Assistant｜>⟦{said}|<｜end▁of▁sentence｜>⟧"


def plain(turn, bos="", join=""):
    """What a template that writes what it is given makes of the chats without tools."""
    return {
        "one": bos + turn("2+3?", "2+3\n|Is 5."),
        "two": bos + turn("2+3?", "It is 5.") + join + turn("sure?", "yes"),
        "empty": bos + turn("2+3?", "").replace("⟦|", "⟦"),
        "cut": bos + turn("2+3?", "It is").rpartition("|<")[0] + "⟧",
        "thought": bos + turn("2+3?", "<think>\n|2+3=5, so 5.\n|</think>\n\n|5"),
        "ended": bos + turn("2+3?", "5"),
    }


LLAMA_BOS = "<|begin_of_text|>"
LLAMA = {
    **plain(llama_turn, LLAMA_BOS),
    "system": LLAMA_BOS + "<|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>" + llama_turn("2+3?", "5"),
}
LLAMA["cut"] = LLAMA_BOS + llama_turn("2+3?", "It is").replace("|<|eot_id|>⟧", "⟧")

EXPECTED = {
    "qwen3": {
        "one": chatml_turn("2+3?", NO_THOUGHT + "2+3\n|Is 5."),
        "two": chatml_turn("2+3?", NO_THOUGHT + "It is 5.") + "\n" + chatml_turn("sure?", NO_THOUGHT + "yes"),
        "system": "<|im_start|>system\nbe brief<|im_end|>\n" + chatml_turn("2+3?", NO_THOUGHT + "5"),
        "empty": chatml_turn("2+3?", "<think>\n\n|</think>\n\n"),
        "cut": chatml_turn("2+3?", NO_THOUGHT + "It is").replace("|<|im_end|>⟧", "⟧"),
        "thought": chatml_turn("2+3?", "<think>\n|2+3=5, so 5.\n|</think>\n\n|5"),
        "ended": chatml_turn("2+3?", NO_THOUGHT + "5"),
        "tool": chatml_turn(
            "weather?",
            NO_THOUGHT
            + "I ask.\n|<tool_call>\n|"
            + '{"name": "get_weather", "arguments": {"city": "Paris"}}\n|</tool_call>',
        )
        + "\n"
        + chatml_turn("<tool_response>\n22\n</tool_response>", NO_THOUGHT + "22."),
    },
    "gemma3": {**plain(gemma_turn, "<bos>", "\n"), "system": "<bos>" + gemma_turn("be brief\n\n2+3?", "5")},
    "llama3": LLAMA,
    "llama3_1": LLAMA,
    "deepseek_v3": {
        **plain(deepseek_turn, "<｜begin▁of▁sentence｜>"),
        "system": "<｜begin▁of▁sentence｜>be brief" + deepseek_turn("2+3?", "5"),
    },
    "smollm2": {
        **plain(chatml_turn, SMOL, "\n"),
        "cut": SMOL + chatml_turn("2+3?", "It is").replace("|<|im_end|>⟧", "⟧"),
        "system": "<|im_start|>system\nbe brief<|im_end|>\n" + chatml_turn("2+3?", "5"),
    },
}
IDS = {  # of "one": prompt, actions
    "qwen3": (
        [151644, 872, 198, 17, 10, 18, 30, 151645, 198, 151644, 77091, 198],
        [151667, 271, 151668, 271, 17, 10, 18, 198, 3872, 220, 20, 13, 151645],
    ),
    "gemma3": (
        [2, 105, 2364, 107, 236778, 236862, 236800, 236881, 106, 107, 105, 4368, 107],
        [236778, 236862, 236800, 107, 4602, 236743, 236810, 236761, 106],
    ),
    "llama3": (
        [128000, 128006, 882, 128007, 271, 17, 10, 18, 30, 128009, 128006, 78191, 128007, 271],
        [17, 10, 18, 198, 3957, 220, 20, 13, 128009],
    ),
    "deepseek_v3": ([0, 128803, 20, 13, 21, 33, 128804], [20, 13, 21, 201, 4910, 223, 23, 16, 1]),
    "smollm2": (
        [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2,
         198, 1, 4093, 198, 34, 27, 35, 47, 2, 198, 1, 520, 9531, 198],
        [34, 27, 35, 198, 4182, 216, 37, 30, 2],
    ),
}  # fmt: skip
IDS["llama3_1"] = IDS["llama3"]
END = {
    "qwen3": "<|im_end|>", "gemma3": "<end_of_turn>", "llama3": "<|eot_id|>", "llama3_1": "<|eot_id|>",
    "deepseek_v3": "<｜end▁of▁sentence｜>", "smollm2": "<|im_end|>",
}  # fmt: skip
CASES = [(name, chat) for name, chats in EXPECTED.items() for chat in chats]


def tokenizer_of(name):
    return with_chat_template(real_tokenizer(name))


def episode_of(name, chat):
    messages = [{**m, "content": m["content"].replace("{end}", END[name])} for m in CHATS[chat]]
    first = next(k for k, m in enumerate(messages) if m["role"] == "assistant")
    reason = StopReason.LENGTH if chat == "cut" else StopReason.STOP
    return Episode(
        prompt=messages[:first], completion=messages[first:], reward=1.0, prompt_id="p", stop_reason=reason
    )  # fmt: skip


def written(trajectory, tokenizer):
    """The ids as text, with the marks."""
    out = ""
    for p, token in enumerate(trajectory.ids.tolist()):
        acts, acted = trajectory.action_mask[p], p > 0 and trajectory.action_mask[p - 1]
        out += "⟧" if acted and not acts else ""
        out += "⟦" if acts and not acted else ""
        out += "|" if acts and acted and trajectory.step_id[p] != trajectory.step_id[p - 1] else ""
        out += decode([token], tokenizer)
    return out + ("⟧" if trajectory.action_mask[-1] else "")


@pytest.mark.parametrize(("name", "chat"), CASES)
def test_actions_and_steps_by_hand(name, chat):
    tokenizer = tokenizer_of(name)
    trajectory = align(episode_of(name, chat), tokenizer, StepRule(("\n",)))
    assert written(trajectory, tokenizer) == EXPECTED[name][chat]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_and_value_positions_by_hand(name):
    prompt, actions = IDS[name]
    trajectory = align(episode_of(name, "one"), tokenizer_of(name), StepRule(("\n",)))
    assert trajectory.ids.tolist() == prompt + actions
    assert np.flatnonzero(trajectory.action_mask).tolist() == list(range(len(prompt), len(prompt + actions)))
    begins = np.flatnonzero(np.diff(trajectory.step_id, prepend=-1) > 0).tolist()
    line = len(prompt) + actions.index({"gemma3": 107, "deepseek_v3": 201}.get(name, 198)) + 1
    empty_thought = [len(prompt) + 2, len(prompt) + 4] if name == "qwen3" else []
    assert begins == [len(prompt), *empty_thought, line, len(prompt + actions) - 1]  # V is read one position before


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_engine_stops_at_the_end_that_is_trained(name):
    tokenizer = tokenizer_of(name)
    ends = turn_ends(tokenizer)
    end = tokenizer.convert_tokens_to_ids(END[name])
    assert ends.of_chat == end
    assert {end, tokenizer.eos_token_id} == ends.stop
    for chat in EXPECTED[name]:
        tokens = tokenise(episode_of(name, chat), tokenizer)
        last = np.flatnonzero(tokens.action_mask & ~np.append(tokens.action_mask[1:], False))
        assert chat == "cut" or {int(tokens.ids[p]) for p in last} == {end}
        text = response_text(tokens.ids[tokens.action_mask].tolist(), tokenizer)
        assert not any(special in text for special in [*tokenizer.all_special_tokens, END[name]])
    configured = turn_ends(tokenizer, GenerationConfig(eos_token_id=[end, 7]))
    assert configured.stop == ends.stop | {7}
    assert 7 in configured.special


@pytest.mark.parametrize("name", TOKENIZERS)
def test_turns_decoded_after_few_ids_are_those_decoded_after_all(name):
    tokenizer = tokenizer_of(name)
    odd = ["naïve 中文", "🤖" * 40, "x\n\n y", "a\tb", "two  spaces"]
    said = [m for k, text in enumerate(odd) for m in (user(f"{k} {text}?"), assistant(f"So {text} {k}."))]
    episode = Episode(prompt=said[:1], completion=said[1:], reward=1.0, stop_reason=StopReason.STOP, prompt_id="p")
    spans, ends = list(chat_spans(episode, tokenizer)), turn_ends(tokenizer)
    assert _encoded_spans(spans, tokenizer, ends, 32) == _encoded_spans(spans, tokenizer, ends, None)


@pytest.mark.parametrize(("name", "chat"), [c for c in CASES if c[1] in ("one", "two", "thought", "empty")])
def test_the_ids_that_are_sampled_are_the_ids_that_are_trained(name, chat):
    """A conversation that is had token by token, and the same one as a log."""
    tokenizer = tokenizer_of(name)
    episode = episode_of(name, chat)
    logged = tokenise(episode, tokenizer)
    talk = Conversation(episode.prompt, tokenizer)
    mask = logged.action_mask
    turns = [list(run) for acts, run in itertools.groupby(range(len(mask)), key=lambda p: bool(mask[p])) if acts]
    observed = iter([m["content"] for m in episode.completion if m["role"] == "user"])
    for k, turn in enumerate(turns):
        if k:
            talk.observe(next(observed))
        talk.reply(logged.ids[turn].tolist(), [0.0] * len(turn))
    assert talk.ids == logged.ids.tolist()
    assert talk.tokens().action_mask.tolist() == mask.tolist()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_chat_that_was_rendered_to_text_is_the_chat(name):
    tokenizer = tokenizer_of(name)
    chat = episode_of(name, "one")
    prompt = tokenizer.apply_chat_template(list(chat.prompt), tokenize=False, add_generation_prompt=True)
    said = NO_THOUGHT.replace("|", "") if name == "qwen3" else ""
    for end in ("", END[name], END[name] + "\n"):
        text = Episode(prompt=prompt, completion=f"{said}2+3\nIs 5.{end}", reward=1.0, prompt_id="p")
        tokens = tokenise(text, tokenizer)
        assert tokens.ids.tolist() == [*IDS[name][0], *IDS[name][1]]
        assert int(tokens.action_mask.argmax()) == len(IDS[name][0]) == len(prompt_ids(prompt, tokenizer))


@pytest.mark.parametrize("name", ["gemma3", "llama3", "llama3_1", "deepseek_v3", "smollm2"])
def test_a_tool_call_that_the_template_leaves_out_is_refused(name):
    with pytest.raises(InputError, match=r"leaves out the tool call 'get_weather'.*--chat_template FILE"):
        tokenise(episode_of(name, "tool"), tokenizer_of(name))


def test_the_templates_of_qwen3_as_they_come_change_earlier_turns():
    tokenizer = with_chat_template(real_tokenizer("qwen3"), "original")
    assert tokenizer is real_tokenizer("qwen3")
    with pytest.raises(InputError, match=r"changes earlier turns.*--split_turns true"):
        tokenise(episode_of("qwen3", "two"), tokenizer)
    one = tokenise(episode_of("qwen3", "one"), tokenizer)
    assert one.ids.tolist() == [*IDS["qwen3"][0], *IDS["qwen3"][1]]
    first, second = (
        align(e, tokenizer, StepRule(()), as_written=True) for e in split_into_turns(episode_of("qwen3", "two"))
    )
    asked, again = "<|im_start|>user\n2+3?<|im_end|>\n", "<|im_start|>user\nsure?<|im_end|>\n"
    assert written(first, tokenizer) == asked + "<|im_start|>assistant\n⟦<think>\n\n</think>\n\nIt is 5.|<|im_end|>⟧"
    assert written(second, tokenizer) == (
        asked + "<|im_start|>assistant\nIt is 5.<|im_end|>\n" + again
        + "<|im_start|>assistant\n⟦<think>\n\n</think>\n\nyes|<|im_end|>⟧"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["smollm2", "llama3_1"])
def test_an_end_of_turn_that_is_not_the_end_of_sequence(name):
    """As Qwen2.5 bases, Llama 3, Gemma and Phi are often saved."""
    tokenizer = copy.deepcopy(real_tokenizer(name))
    tokenizer.eos_token = {"smollm2": "<|endoftext|>", "llama3_1": "<|end_of_text|>"}[name]
    tokens = tokenise(episode_of(name, "two"), tokenizer)
    assert tokens.ids.tolist() == tokenise(episode_of(name, "two"), real_tokenizer(name)).ids.tolist()
    ends = turn_ends(tokenizer)
    assert ends.stop == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END[name])}
    assert ends.of_text == tokenizer.eos_token_id
    text = Episode(prompt="2+3=", completion="5", reward=1.0, prompt_id="p")
    assert int(tokenise(text, tokenizer).ids[-1]) == tokenizer.eos_token_id


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_system_text_before_the_first_user_message(name):
    tokenizer = with_chat_template(real_tokenizer(name), None, merge_system_message=True)
    merged = [user("be brief\n\n2+3?")]
    assert prompt_ids(CHATS["system"][:2], tokenizer) == prompt_ids(merged, tokenizer_of(name))
    assert prompt_ids(merged, tokenizer) == prompt_ids(merged, tokenizer_of(name))
    assert with_chat_template(tokenizer, None, merge_system_message=True) is tokenizer
