"""Truncation of a response where its text continues with another turn or another problem."""

from __future__ import annotations

import re

_THOUGHT_ENDS = "</think>"
_ROLE = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|im_start\|>\s*assistant\s*|<\|assistant\|>)\s*")
_END_OF_TURN = re.compile(
    r"<\|?(?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|start_header_id|end|user|system|assistant|eos|pad)\|?>"
    r"|<[|｜](?:end▁of▁sentence|begin▁of▁sentence|User|Assistant|EOT)[|｜]>|</s>|<(?:end|start)_of_turn>|\[/?INST\]"
)
_NEXT_PROBLEM = re.compile(
    r"^[ \t*#]*(?:(?:Next )?(?:Question|Problem|Exercise)(?: \d+)?[ \t*]*:"
    r"|Q:|(?:Human|User|USER|HUMAN)[ \t*]*:|Instruction[ \t*]*:)",
    re.MULTILINE,
)
_ANSWERED = re.compile(
    r"####[ \t]*[-$\\\d]|\\boxed|\b[Aa]nswer(?: is)?[ \t*]*:?[ \t*]*[-$\\]{0,3}\d|^A: ?[-$\\]{0,3}\d", re.MULTILINE
)


def own_turn(response: str) -> str:
    """The response without the thoughts before its answer and without what runs on after it.

    It ends with the first token that ends a turn, as `<|im_end|>` does, and with a line that puts another question,
    where an answer stands before that line. Thoughts end with the last `</think>`, if anything follows.
    """
    opening = _ROLE.match(response)
    text = response[opening.end() :] if opening is not None else response
    if "<" in text or "[" in text:
        match = _END_OF_TURN.search(text)
        text = text[: match.start()] if match is not None and text[: match.start()].strip() else text
        thought, _, said = text.rpartition(_THOUGHT_ENDS)
        text = said if thought and said.strip() else text
    match = _NEXT_PROBLEM.search(text)
    answered = _ANSWERED.search(text) if match is not None else None
    match = _NEXT_PROBLEM.search(text, answered.end()) if answered is not None else None
    return text[: match.start()] if match is not None else text
