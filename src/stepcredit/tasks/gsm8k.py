"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al., 2021, arXiv 2110.14168).

    train                      7,473 problems
    test                       1,319 problems
    validation                 the last 500 of train
    train_without_validation   train but for those

A row is a `question` and an `answer`: a worked solution whose last line is `#### N`. Its calculator notes,
`<<48/2=24>>`, were made for a model that calls a calculator: they are left out of `Problem.solution`, being no text
that a policy should write, except in the `lm-eval` style, which shows solutions as they are. Where a style asks for
`\\boxed{}`, the last line becomes `The answer is \\boxed{N}.`
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stepcredit.errors import InputError
from stepcredit.grading.grade import Grade
from stepcredit.grading.grader import grade_answer
from stepcredit.grading.style import Marker
from stepcredit.tasks.prompts import PromptStyle, Worked, posed, style_named
from stepcredit.tasks.sources import HubDataset, SourceRow, Sources, text_of
from stepcredit.tasks.task import Problem

VALIDATION = 500

_SPLITS = {
    "train": ("train", slice(None)),
    "test": ("test", slice(None)),
    "validation": ("train", slice(-VALIDATION, None)),
    "train_without_validation": ("train", slice(None, -VALIDATION)),
}
_NOTE = re.compile(r"<<[^<>]*>>")


class GSM8K:
    """See the module's docstring.

    Args:
        data: a file that is read whatever the split, or a folder with `train.*` and `test.*` (or `gsm8k_train.*`
            and `gsm8k_test.*`); None reads `openai/gsm8k` from the hub. `validation` is cut from train, so a file
            is taken for train there.
        prompt_style: a name of `prompts.PROMPT_STYLES`; default `qwen-math`.

    Raises:
        InputError: no such style.
    """

    name = "gsm8k"
    version = "2"
    step_delimiters: tuple[str, ...] = ("\n",)
    max_new_tokens = 2048

    def __init__(self, data: str | None = None, prompt_style: str | None = None) -> None:
        self.prompt_style = style_named(self.name, prompt_style)
        self.stop = self.prompt_style.stop
        self._sources = Sources(data)

    @property
    def source_versions(self) -> dict[str, str]:
        """Split of the data → version of what was read, of those that `problems` has read so far."""
        return dict(self._sources.versions)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """The first `count` problems of a split in the data's own order (default: all); the seed is not used.

        A problem of `validation` keeps its `prompt_id` of train: it is the same problem.

        Raises:
            InputError: no such split, fewer problems than `count`, data that cannot be read (see `sources`), or an
                answer without `####`.
        """
        if split not in _SPLITS:
            raise InputError(f"no split {split!r}; there is {', '.join(_SPLITS)}", "split")
        whole, part = _SPLITS[split]
        rows = self._worked(whole)
        if part != slice(None) and len(rows) <= VALIDATION:
            raise InputError(f"{split} needs more than {VALIDATION} rows of train; there are {len(rows)}", "split")
        if self.prompt_style.shots and whole != "train":
            self._sources.refuse_single_file()
        return posed(rows[part], count, self.prompt_style, lambda: self._worked("train"))

    def grade(self, problem: Problem, response: str) -> Grade:
        """The verdict on a response; strict if the answer stands where the prompt style asks for it."""
        return grade_answer(response, problem.answer, self.prompt_style.style)

    def wrong_steps(self, problem: Problem, response: str) -> list[bool] | None:
        """None: the data does not say which steps are wrong."""
        return None

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
