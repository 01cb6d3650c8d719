"""A policy that learns from prompts in plain text, under a tokenizer with a chat template."""

import pytest
from test_trainer import config

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import Episode, OfflineTrainer
from stepcredit.rollouts.generate import GenerateConfig
from stepcredit.rollouts.models import Models


@pytest.mark.parametrize("as_messages", [False, True])
def test_it_is_asked_as_it_has_learned(tmp_path, as_messages):
    """`generate` puts a question into the chat template by default, which such a policy has never seen."""
    prompts = [[{"role": "user", "content": f"{k}+2="}] if as_messages else f"{k}+2=" for k in range(4)]
    said = [{"role": "assistant", "content": "4"}] if as_messages else "4"
    episodes = [
        Episode(prompt=p, completion=said, reward=float(k % 2), prompt_id=str(k)) for k, p in enumerate(prompts)
    ]
    given = {"model": tiny_llama(), "args": config(tmp_path), "processing_class": byte_tokenizer()}
    trainer = OfflineTrainer(**given, train_dataset=episodes)
    note = "prompts: 4 are plain text, without the chat template, which messages get (import --chat)"
    assert (note in trainer.notes) == (not as_messages)
    trainer.save_model()
    asked = GenerateConfig(prompts=["q"], model=str(tmp_path / "policy"))
    assert Models(asked).asks_in_chat == as_messages
    assert Models(asked, trainer.model.policy, tokenizer=byte_tokenizer()).asks_in_chat == as_messages


def test_the_mark_goes_with_messages(tmp_path):
    """A policy that learned from plain text first, and then from chat, is asked in chat; so is one of a mixed log."""
    policy, chat = tiny_llama(), [{"role": "user", "content": "1+2="}]
    policy.config.text_prompts = True
    said = [{"role": "assistant", "content": "3"}]
    messages = [Episode(prompt=chat, completion=said, reward=float(k), prompt_id="a", sample=k) for k in range(2)]
    text = Episode(prompt="1+2=", completion="3", reward=1.0, prompt_id="b")
    for episodes in (messages, [*messages, text]):
        trainer = OfflineTrainer(
            model=policy, args=config(tmp_path), train_dataset=episodes, processing_class=byte_tokenizer()
        )
        assert not hasattr(trainer.model.policy.config, "text_prompts")
