"""The chat template that a tokenizer uses: its own, one that training needs in its place, or one from a file.

It is part of the tokenizer, and so is saved with the policy: whatever serves it later writes the same text.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from stepcredit.episodes.turns import render
from stepcredit.errors import InputError

ORIGINAL = "original"
"""In place of a file: the tokenizer's own template, also where a training template is known."""

_QWEN3 = (
    ("{%- if loop.index0 > ns.last_query_index %}", "{%- if true %}"),
    ("{%- if loop.last or (not loop.last and reasoning_content) %}", "{%- if true %}"),
)
"""Qwen3 writes a thought into some turns only, by what follows them: here every turn has its own, if an empty one."""

_R1 = (("{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}", ""),)
"""DeepSeek-R1 and its distillates drop the thoughts of a conversation: here each turn keeps its own."""

_MERGED_SYSTEM = (
    "{%- if messages[0]['role'] == 'system' and messages | length > 1 and messages[1]['role'] == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}]"
    " + messages[2:] -%}{%- endif -%}"
)


def with_chat_template(tokenizer: Any, chat_template: str | None = None, merge_system_message: bool = False) -> Any:
    """A tokenizer with the chat template that is to be used; the same one where its own is.

    Args:
        tokenizer: with the template that it came with.
        chat_template: a file with another, in Jinja; "original" for the tokenizer's own; None for the one that
            training needs where that is known (`training_template`).
        merge_system_message: put a system message before the first user's text, whatever the template does with one.

    Raises:
        InputError: no such file, or no template.
    """
    own = getattr(tokenizer, "chat_template", None)
    template = own
    if chat_template is not None and chat_template != ORIGINAL:
        template = _read(Path(chat_template))
    elif own is not None and chat_template is None:
        template = training_template(own)
    if merge_system_message:
        if template is None:
            raise InputError("the tokenizer has no chat template that a system message could be merged for",
                             "merge_system_message")  # fmt: skip
        if not template.startswith(_MERGED_SYSTEM):
            template = _MERGED_SYSTEM + template
    if template == own:
        return tokenizer
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    if template is not None and chat_template not in (None, ORIGINAL):
        _check_renders(changed, str(chat_template))
    return changed


def training_template(template: str) -> str:
    """A template that appends: what the policy saw and wrote stands unchanged in the text of every later turn.

    Known for Qwen3 and DeepSeek-R1 and what was made from them; any other template comes back as it is.
    """
    for edits in (_QWEN3, _R1):
        if all(before in template for before, _ in edits):
            for before, after in edits:
                template = template.replace(before, after)
    return template


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the chat template {file}: {error}", "chat_template") from error


def _check_renders(tokenizer: Any, name: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        render(messages[:1], tokenizer, open_turn=True)
        render(messages, tokenizer, open_turn=False)
    except InputError as error:
        raise InputError(f"{name} is no chat template for a user's and an assistant's message: {error}",
                         "chat_template") from error  # fmt: skip
