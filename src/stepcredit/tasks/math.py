"""MATH: competition problems whose answer is a LaTeX expression (Hendrycks et al., 2021, arXiv 2103.03874).

    train        7,500 problems
    test         5,000 problems
    math500      500 problems of test (Lightman et al., 2023, arXiv 2305.20050)
    validation   those of a file; the hub has none

A row is a `problem` with a `solution`, an `answer`, or both. The gold answer is `answer` if the row has one, else the
content of the last `\\boxed{}` of the solution. Worked solutions are taken from the data; one without a box gets the
last line `The answer is $\\boxed{…}$.` On the hub, train and test are ordered by subject, so the first `count` problems
are not a representative sample.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stepcredit.errors import InputError
from stepcredit.grading.extraction.boxes import boxed_gold
from stepcredit.tasks.prompts import Worked, WorkedTask, posed
from stepcredit.tasks.sources import HubDataset, SourceRow, text_of
from stepcredit.tasks.task import Problem

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

_SPLITS = {
    "train": HubDataset("EleutherAI/hendrycks_math", "train", ("problem",), ("train", "math_train"), SUBJECTS),
    "test": HubDataset("EleutherAI/hendrycks_math", "test", ("problem",), ("test", "math_test"), SUBJECTS),
    "validation": HubDataset("EleutherAI/hendrycks_math", "validation", ("problem",), ("validation",), SUBJECTS),
    "math500": HubDataset("HuggingFaceH4/MATH-500", "test", ("problem",), ("math500", "math_500")),
}


class MATH(WorkedTask):
    """The MATH task.

    Args:
        data: a file that is read for every split, or a folder with `train.*` and `test.*` (or `math_train.*`,
            `math_test.*`), `math500.*` and `validation.*`; None reads `EleutherAI/hendrycks_math` and
            `HuggingFaceH4/MATH-500` from the hub.
        prompt_style: a name in `prompts.PROMPT_STYLES`; default `qwen-math`.

    Raises:
        InputError: unknown style.
    """

    name = "math"
    step_delimiters: tuple[str, ...] = ("\n", ". ", ".$ ")

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """Returns the first `count` problems of a split in the order of the data (default: all); the seed is unused.

        Their metadata has `level` (1 to 5, None if the data has none), `type` (the subject) and, in MATH-500,
        `unique_id`.

        Raises:
            InputError: unknown split, fewer problems than `count`, data that cannot be read (see `sources`), or a row
                without an answer.
        """
        if split not in _SPLITS:
            raise InputError(f"no split {split!r}; there is {', '.join(_SPLITS)}", "split")
        if self.prompt_style.shots and split != "train":
            self._sources.refuse_single_file()
        return posed(self._worked(split), count, self.prompt_style, lambda: self._worked("train"))

    def _worked(self, split: str) -> list[Worked]:
        rows = self._sources.rows(split, _SPLITS[split])
        return [_worked(f"math-{split}-{k}", row) for k, row in enumerate(rows)]


def _worked(prompt_id: str, row: SourceRow) -> Worked:
    solution = None if row.data.get("solution") is None else text_of(row, "solution")
    boxed = None if solution is None else boxed_gold(solution)
    stated = row.data.get("answer")
    answer = (boxed or "").strip() if stated is None else str(stated).strip()
    if not answer:
        raise InputError("no 'answer', and no \\boxed{} in the 'solution'", row.where)
    if solution is not None and boxed is None:
        solution = f"{solution.rstrip()}\nThe answer is $\\boxed{{{answer}}}$."
    level = re.search(r"\d+", str(row.data.get("level")))
    metadata = {"level": int(level[0]) if level else None, "type": row.data.get("type", row.data.get("subject"))}
    if row.data.get("unique_id") is not None:
        metadata["unique_id"] = row.data["unique_id"]
    return Worked(prompt_id, text_of(row, "problem"), answer, solution, metadata)
