"""Selection of a tokenizer's chat template: its own, a training variant, or one from a file.

The template is saved with the tokenizer, so that inference uses the template of training.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from stepcredit.episodes.turns import render
from stepcredit.errors import InputError

ORIGINAL = "original"
"""Selects the tokenizer's own template even if there is a training variant of it."""

_QWEN3 = (
    ("{%- if loop.index0 > ns.last_query_index %}", "{%- if true %}"),
    ("{%- if loop.last or (not loop.last and reasoning_content) %}", "{%- if true %}"),
)
"""Qwen3 renders reasoning only in some turns, depending on later ones; these edits make it do so in every turn."""

_R1 = (("{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}", ""),)
"""DeepSeek-R1 and its distilled models drop the reasoning of earlier turns; with these edits they keep it."""

_MERGED_SYSTEM = (
    "{%- if messages[0]['role'] == 'system' and messages | length > 1 and messages[1]['role'] == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}]"
    " + messages[2:] -%}{%- endif -%}"
)


def with_chat_template(tokenizer: Any, chat_template: str | None = None, merge_system_message: bool = False) -> Any:
    """Returns a tokenizer with the selected chat template; the same object if the template is unchanged.

    Args:
        tokenizer: a tokenizer with its own template.
        chat_template: a file with a Jinja template; "original" for the tokenizer's own; None for its training variant
            (`training_template`).
        merge_system_message: whether to put a system message before the first user message, whatever the template does.

    Raises:
        InputError: the file does not exist, or there is no template.
    """
    own = getattr(tokenizer, "chat_template", None)
    template = own
    if chat_template is not None and chat_template != ORIGINAL:
        template = _read(Path(chat_template))
    elif own is not None and chat_template is None:
        template = training_template(own)
    if merge_system_message:
        if template is None:
            raise InputError("the tokenizer has no chat template; give one with --chat_template",
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
    """Returns an append-only variant of a template, in which later turns do not change the text of earlier ones.

    Edits the templates of Qwen3, DeepSeek-R1 and models derived from them; returns any other unchanged.
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
        raise InputError(f"{name} does not render a user and an assistant message: {error}",
                         "chat_template") from error  # fmt: skip
