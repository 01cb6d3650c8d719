import pytest

from doubles.real import TOKENIZERS, real_tokenizer, smollm2_folder

TURNS = [{"role": "user", "content": "What is 2 + 4?"}, {"role": "assistant", "content": "It is 6."}]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_real_tokenizer_brings_its_chat_template(name):
    text = real_tokenizer(name).apply_chat_template(TURNS, tokenize=False)
    assert "What is 2 + 4?" in text
    assert "It is 6." in text


def test_the_small_model_is_a_plain_folder():
    folder = smollm2_folder()
    assert (folder / "model.safetensors").is_file()
    assert "quantization_config" not in (folder / "config.json").read_text()
