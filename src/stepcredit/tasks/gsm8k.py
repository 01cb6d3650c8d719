"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al., 2021, arXiv 2110.14168).

    train                      7,473 problems
    test                       1,319 problems
    validation                 the last 500 of train, or the file `validation.*` of a folder that has one
    train_without_validation   the rest of train

A row is a `question` and an `answer`: a worked solution whose last line is `#### N`. Its calculator annotations
(`<<48/2=24>>`) are removed from `Problem.solution`, because a policy should not write them, except in the `lm-eval`
style, which shows the solutions unchanged. If a style asks for `\\boxed{}`, the last line becomes
`The answer is \\boxed{N}.`
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stepcredit.errors import InputError
from stepcredit.grading.style import Marker
from stepcredit.tasks.prompts import PromptStyle, Worked, WorkedTask, posed
from stepcredit.tasks.sources import HubDataset, SourceRow, text_of
from stepcredit.tasks.task import Problem

VALIDATION = 500

_SPLITS = {
    "train": ("train", slice(None)),
    "test": ("test", slice(None)),
    "validation": ("train", slice(-VALIDATION, None)),
    "train_without_validation": ("train", slice(None, -VALIDATION)),
}
_NOTE = re.compile(r"<<[^<>]*>>")


class GSM8K(WorkedTask):
    """The GSM8K task.

    Args:
        data: a file that is read for every split, or a folder with `train.*` and `test.*` (or `gsm8k_train.*` and
            `gsm8k_test.*`); None reads `openai/gsm8k` from the hub. Without a file of its own, `validation` is cut
            from train, so for it a file must be train.
        prompt_style: a name in `prompts.PROMPT_STYLES`; default `qwen-math`.

    Raises:
        InputError: unknown style.
    """

    name = "gsm8k"
    step_delimiters: tuple[str, ...] = ("\n",)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """Returns the first `count` problems of a split in the order of the data (default: all); the seed is unused.

        A problem of `validation` keeps its `prompt_id` of train: it is the same problem.

        Raises:
            InputError: unknown split, fewer problems than `count`, data that cannot be read (see `sources`), or an
                answer without `####`.
        """
        if split not in _SPLITS:
            raise InputError(f"no split {split!r}; there is {', '.join(_SPLITS)}", "split")
        whole, part = _SPLITS[split]
        if whole != split and self._sources.has("validation"):
            whole, part = ("validation" if split == "validation" else "train"), slice(None)
        rows = self._worked(whole)
        if part != slice(None) and len(rows) <= VALIDATION:
            raise InputError(f"{split} needs more than {VALIDATION} rows of train; there are {len(rows)}", "split")
        if self.prompt_style.shots and whole != "train":
            self._sources.refuse_single_file()
        return posed(rows[part], count, self.prompt_style, lambda: self._worked("train"))

    def _worked(self, split: str) -> list[Worked]:
        hub = HubDataset("openai/gsm8k", split, ("question", "answer"), (split, f"gsm8k_{split}"), ("main",))
        rows = self._sources.rows(split, hub)
        return [_worked(f"gsm8k-{split}-{k}", row, self.prompt_style) for k, row in enumerate(rows)]


def _worked(prompt_id: str, row: SourceRow, style: PromptStyle) -> Worked:
    work, hashes, after = text_of(row, "answer").rpartition("####")
    answer = after.strip()
    if not hashes or not answer:
        raise InputError("'answer' must end in '#### ' and the final answer", row.where)
    work = (work if style.is_annotated else _NOTE.sub("", work)).rstrip()
    end = f"The answer is \\boxed{{{answer}}}." if style.style.marker is Marker.BOXED else f"#### {answer}"
    return Worked(prompt_id, text_of(row, "question"), answer, f"{work}\n{end}")
