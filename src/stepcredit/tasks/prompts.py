"""How a problem is put to a policy: prompt styles by task and name, and the examples that some of them show.

    qwen-math             chat; the system message asks for `#### N` (GSM8K) or `\\boxed{}` (MATH): the OREO paper's
    qwen-boxed            the same with `\\boxed{}` for both tasks, as in Qwen's own evaluation
    deepseek-math         chat without a system message; the user's turn ends by asking for `\\boxed{}`
    deepseek-math-plain   the same as text, by the template of DeepSeekMath's README, for models without a chat template
    lm-eval               text after examples, as in lm-evaluation-harness (`gsm8k`, `minerva_math`)
    plain                 text, no instruction: for models trained on worked solutions

`lm-eval` draws its examples from the train split, where the harness draws others for each problem (GSM8K) or shows
four that are written into it (MATH): its scores are close to the harness's, not equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stepcredit.episodes.episode import Message
from stepcredit.errors import InputError
from stepcredit.grading.grade import Grade
from stepcredit.grading.grader import grade_answer
from stepcredit.grading.style import GSM8K, MATH, AnswerStyle, Kind, Marker
from stepcredit.tasks.sources import Sources
from stepcredit.tasks.task import Problem

EXAMPLE_SEED = 0
DEFAULT_STYLE = "qwen-math"

ASK_HASHES = "Please reason step by step, and produce a final answer following 4 '#', like '#### 0'"
ASK_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Worked:
    """A problem before it is put in a style.

    Attributes:
        prompt_id: as in `Problem`.
        question: the bare text of the problem.
        answer: the gold answer.
        solution: a worked solution that ends as the style asks; None where there is none.
        metadata: as in `Problem`.
    """

    prompt_id: str
    question: str
    answer: str
    solution: str | None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptStyle:
    """One way to ask the questions of one task.

    Attributes:
        name: the style's name.
        style: what the prompt asks for: an answer found there is strict.
        before, after: what stands around the question, in the text or in the user's turn.
        is_chat: chat messages; otherwise text.
        system: the system message of a chat.
        lead: what a response starts with, as ` ` after `Answer:`.
        shots: how many examples stand before the question (text only).
        stop: strings that end a response.
        is_annotated: whether worked solutions keep GSM8K's `<<48/2=24>>`.
    """

    name: str
    style: AnswerStyle
    before: str = ""
    after: str = ""
    is_chat: bool = False
    system: str | None = None
    lead: str = ""
    shots: int = 0
    stop: tuple[str, ...] = ()
    is_annotated: bool = False

    def render(self, question: str, examples: Sequence[tuple[str, str]] = ()) -> str | list[Message]:
        """The prompt: text, or chat messages.

        Args:
            question: the bare problem.
            examples: `shots` pairs of a question and its worked solution, which stand before it.

        Raises:
            ValueError: more or fewer examples than the style shows.
        """
        if len(examples) != self.shots:
            raise ValueError(f"{self.name} shows {self.shots} examples, not {len(examples)}")
        text = self.before + question + self.after
        if self.is_chat:
            system: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
            return [*system, {"role": "user", "content": text}]
        shown = [self.before + example + self.after + self.lead + solution for example, solution in examples]
        return "\n\n".join([*shown, text])


_NUMBER_BOXED = AnswerStyle(Marker.BOXED, Kind.NUMBER)
_QUESTION: dict[str, Any] = {"before": "Question: ", "after": "\nAnswer:", "lead": " "}
_PROBLEM: dict[str, Any] = {"before": "Problem:\n", "after": "\n\nSolution:", "lead": " "}
_TURNS: dict[str, Any] = {"before": "User: ", "after": f"\n{ASK_BOXED}\n\nAssistant:", "lead": " "}

PROMPT_STYLES: dict[str, dict[str, PromptStyle]] = {
    task: {style.name: style for style in styles}
    for task, styles in {
        "gsm8k": (
            PromptStyle("qwen-math", GSM8K, is_chat=True, system=ASK_HASHES),
            PromptStyle("qwen-boxed", _NUMBER_BOXED, is_chat=True, system=ASK_BOXED),
            PromptStyle("deepseek-math", _NUMBER_BOXED, is_chat=True, after=f"\n{ASK_BOXED}"),
            PromptStyle("deepseek-math-plain", _NUMBER_BOXED, **_TURNS),
            PromptStyle("lm-eval", GSM8K, **_QUESTION, shots=5, stop=("Question:",), is_annotated=True),
            PromptStyle("plain", GSM8K, **_QUESTION),
        ),
        "math": (
            PromptStyle("qwen-math", MATH, is_chat=True, system=ASK_BOXED),
            PromptStyle("qwen-boxed", MATH, is_chat=True, system=ASK_BOXED),
            PromptStyle("deepseek-math", MATH, is_chat=True, after=f"\n{ASK_BOXED}"),
            PromptStyle("deepseek-math-plain", MATH, **_TURNS),
            PromptStyle("lm-eval", MATH, **_PROBLEM, shots=4, stop=("Problem:",)),
            PromptStyle("plain", MATH, **_QUESTION),
        ),
    }.items()
}
"""Task → name → style."""


def style_named(task: str, name: str | None = None) -> PromptStyle:
    """A task's style by name; None is the default one.

    Raises:
        InputError: no such style.
    """
    styles = PROMPT_STYLES[task]
    name = DEFAULT_STYLE if name is None else name
    if name not in styles:
        raise InputError(f"no prompt style {name!r}; there is {', '.join(styles)}", "prompt_style")
    return styles[name]


class WorkedTask:
    """What the tasks share whose data are problems with worked solutions, put in a prompt style: GSM8K and MATH.

    Args:
        data: a file or a folder; None reads the hub.
        prompt_style: a name of `PROMPT_STYLES`; default `qwen-math`.

    Raises:
        InputError: no such style.
    """

    name: str
    version = "2"
    max_new_tokens = 2048

    def __init__(self, data: str | None = None, prompt_style: str | None = None) -> None:
        self.prompt_style = style_named(self.name, prompt_style)
        self.stop = self.prompt_style.stop
        self._sources = Sources(data)

    @property
    def source_versions(self) -> dict[str, str]:
        """Split of the data → version of what was read, of those that `problems` has read so far."""
        return dict(self._sources.versions)

    def grade(self, problem: Problem, response: str) -> Grade:
        """The verdict on a response; strict if the answer stands where the prompt style asks for it."""
        return grade_answer(response, problem.answer, self.prompt_style.style)

    def wrong_steps(self, problem: Problem, response: str) -> list[bool] | None:
        """None: the data does not say which steps are wrong."""
        return None


def posed(
    problems: Sequence[Worked], count: int | None, style: PromptStyle, train: Callable[[], Sequence[Worked]]
) -> list[Problem]:
    """The first `count` problems (None: all) in a style.

    The examples that it shows are drawn from `train`, which is asked only where it shows any. `Problem.solution` is
    what a policy would have to write after the prompt, `lead` included.

    Raises:
        InputError: fewer problems than `count`, or too few worked solutions to draw from.
    """
    if count is not None and not 0 <= count <= len(problems):
        raise InputError(f"{count} problems were asked for; the split has {len(problems)}", "limit")
    pool = draw_examples(train(), style.shots + 1) if style.shots else []
    shown = [[pair for pair in pool if pair[0].split() != p.question.split()][: style.shots] for p in problems[:count]]
    return [
        Problem(
            prompt_id=problem.prompt_id,
            prompt=style.render(problem.question, examples),
            answer=problem.answer,
            solution=None if problem.solution is None else style.lead + problem.solution,
            metadata=problem.metadata,
        )
        for problem, examples in zip(problems[:count], shown, strict=True)
    ]


def draw_examples(train: Sequence[Worked], count: int) -> list[tuple[str, str]]:
    """`count` different questions with their worked solutions, the same ones at every call.

    Raises:
        InputError: the train split has fewer.
    """
    found: dict[str, str] = {}
    for k in np.random.default_rng(EXAMPLE_SEED).permutation(len(train)).tolist():
        if train[k].solution is not None:
            found.setdefault(train[k].question, train[k].solution or "")
        if len(found) == count:
            return list(found.items())
    raise InputError(f"{count} worked solutions are needed for the examples; train has {len(found)}", "prompt_style")
