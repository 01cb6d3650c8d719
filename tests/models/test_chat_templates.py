"""Selection of a tokenizer's chat template."""

import pytest

from doubles.tokenizers import CHAT_TEMPLATE, byte_tokenizer
from stepcredit.errors import InputError
from stepcredit.models.chat_templates import training_template, with_chat_template
from stepcredit.models.loading import stopping

QWEN3 = """{%- for message in messages %}
{%- if loop.index0 > ns.last_query_index %}{%- if loop.last or (not loop.last and reasoning_content) %}thought
{%- else %}none{%- endif %}{%- else %}none{%- endif %}
{%- endfor %}"""
R1 = (
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ content }}<end>{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
)


def rendered(tokenizer, *contents):
    roles = ["user", "assistant"] * 4
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents)]
    return tokenizer.apply_chat_template(messages, tokenize=False)


def test_a_tokenizers_own_template_is_kept_where_nothing_else_is_known_or_asked_for():
    for template in (CHAT_TEMPLATE, None):
        tokenizer = byte_tokenizer(template)
        assert with_chat_template(tokenizer) is tokenizer
        assert with_chat_template(tokenizer, "original") is tokenizer
    assert training_template(CHAT_TEMPLATE) == CHAT_TEMPLATE


def test_known_templates_that_drop_thoughts_keep_them():
    assert training_template(QWEN3).count("if true") == 2
    tokenizer = byte_tokenizer(R1)
    changed = with_chat_template(tokenizer)
    assert rendered(changed, "a", "<think>b</think>c", "d") == "a<end><think>b</think>c<end>d<end>"
    assert rendered(tokenizer, "a", "<think>b</think>c", "d") == "a<end>c<end>d<end>"
    assert tokenizer.chat_template == R1  # somebody else's object
    assert with_chat_template(changed) is changed


def test_a_template_from_a_file(tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}<end>{% endfor %}")
    tokenizer = byte_tokenizer()
    changed = with_chat_template(tokenizer, str(file))
    assert rendered(changed, "a", "b") == "[user] a<end>[assistant] b<end>"
    assert tokenizer.chat_template == CHAT_TEMPLATE
    with pytest.raises(InputError, match=r"^chat_template: cannot read the chat template .*nowhere"):
        with_chat_template(tokenizer, str(tmp_path / "nowhere"))
    for broken in ("{% for m in messages %}", "{{ raise_exception('no') }}", "{{ messages.content.more.x }}"):
        file.write_text(broken)
        with pytest.raises(InputError, match=r"template\.jinja does not render"):
            with_chat_template(tokenizer, str(file))


def test_a_system_message_can_be_merged_once_and_only_where_it_is_followed_by_a_user():
    tokenizer = with_chat_template(byte_tokenizer(), None, merge_system_message=True)
    merged = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    assert tokenizer.apply_chat_template(merged, tokenize=False) == "<user>s\n\nu<end>\n<assistant>a<end>\n"
    alone = [{"role": "system", "content": "s"}]
    assert tokenizer.apply_chat_template(alone, tokenize=False) == "<system>s<end>\n"
    assert rendered(tokenizer, "u", "a") == "<user>u<end>\n<assistant>a<end>\n"
    with pytest.raises(InputError, match="merge_system_message"):
        with_chat_template(byte_tokenizer(None), None, merge_system_message=True)


def test_a_policy_that_chats_stops_at_the_end_of_turn_wherever_it_is_served():
    from doubles.models import tiny_llama

    policy = tiny_llama()
    policy.generation_config.eos_token_id = 257
    assert stopping(policy, byte_tokenizer()).of_chat == 258
    assert policy.generation_config.eos_token_id == [257, 258]
    plain = tiny_llama()
    stopping(plain, byte_tokenizer(None))
    assert plain.generation_config.eos_token_id == 257
