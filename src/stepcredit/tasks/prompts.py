"""Prompt styles by task and name, with few-shot examples for some of them.

    qwen-math             chat; the system message asks for `#### N` (GSM8K) or `\\boxed{}` (MATH), as in the OREO paper
    qwen-boxed            as qwen-math, with `\\boxed{}` for both tasks, as in Qwen's own evaluation
    deepseek-math         chat without a system message; the user message ends by asking for `\\boxed{}`
    deepseek-math-plain   deepseek-math as text, in the format of DeepSeekMath's README, for models without a template
    lm-eval               few-shot text, as in lm-evaluation-harness (`gsm8k`, `minerva_math`)
    plain                 text, no instruction: for models trained on worked solutions
    answer-tags           chat; the system message asks for `<answer>…</answer>` (reasoning-gym, whose answers may have
                          several lines)

`lm-eval` samples its examples from the train split once; the harness samples new ones per problem (GSM8K) or uses four
fixed ones (MATH). Its scores are therefore close to those of the harness, not equal.
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
from stepcredit.grading.style import AUTO, GSM8K, MATH, AnswerStyle, Kind, Marker
from stepcredit.tasks.sources import Sources
from stepcredit.tasks.task import Problem

EXAMPLE_SEED = 0
DEFAULT_STYLE = "qwen-math"

ASK_HASHES = "Please reason step by step, and produce a final answer following 4 '#', like '#### 0'"
ASK_TAGS = "Please reason step by step, and put your final answer, and nothing else, between <answer> and </answer>."
ASK_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Worked:
    """A problem with its worked solution, before it is rendered in a style.

    Attributes:
        prompt_id: as in `Problem`.
        question: the text of the problem.
        answer: the gold answer.
        solution: a worked solution that ends as the style requires, or None.
        metadata: as in `Problem`.
    """

    prompt_id: str
    question: str
    answer: str
    solution: str | None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptStyle:
    """A prompt format for one task.

    Attributes:
        name: the style's name.
        style: the answer format that the prompt asks for; an answer in this format is strict.
        before, after: text around the question, in the text or in the user message.
        is_chat: whether prompts are chat messages; otherwise text.
        system: the system message of a chat.
        lead: the first characters of a response, such as ` ` after `Answer:`.
        shots: number of examples before the question (text only).
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
        """Renders the prompt as text or chat messages.

        Args:
            question: the text of the problem.
            examples: `shots` pairs of a question and its worked solution, placed before the question.

        Raises:
            ValueError: the number of examples is not `shots`.
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
        "reasoning-gym": (
            PromptStyle("answer-tags", AUTO, is_chat=True, system=ASK_TAGS),
            PromptStyle("qwen-math", GSM8K, is_chat=True, system=ASK_HASHES),
            PromptStyle("qwen-boxed", MATH, is_chat=True, system=ASK_BOXED),
            PromptStyle("deepseek-math", MATH, is_chat=True, after=f"\n{ASK_BOXED}"),
            PromptStyle("plain", GSM8K, **_QUESTION),
        ),
    }.items()
}
"""Task → name → style."""


def style_named(task: str, name: str | None = None) -> PromptStyle:
    """Returns a task's style by name; None is the default.

    Raises:
        InputError: unknown style.
    """
    styles = PROMPT_STYLES[task]
    name = DEFAULT_STYLE if name is None else name
    if name not in styles:
        raise InputError(f"no prompt style {name!r}; there is {', '.join(styles)}", "prompt_style")
    return styles[name]


class WorkedTask:
    """Base class of GSM8K and MATH: problems with worked solutions, rendered in a prompt style.

    Args:
        data: a file or a folder; None reads the hub.
        prompt_style: a name in `PROMPT_STYLES`; default `qwen-math`.

    Raises:
        InputError: unknown style.
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
        """Split → version of the data, for the splits that `problems` has read so far."""
        return dict(self._sources.versions)

    def grade(self, problem: Problem, response: str) -> Grade:
        """Grades a response; strict if the answer is in the format that the prompt style asks for."""
        return grade_answer(response, problem.answer, self.prompt_style.style)

    def wrong_steps(self, problem: Problem, response: str) -> list[bool] | None:
        """None: the data does not say which steps are wrong."""
        return None


def posed(
    problems: Sequence[Worked], count: int | None, style: PromptStyle, train: Callable[[], Sequence[Worked]]
) -> list[Problem]:
    """Renders the first `count` problems (None: all) in a style.

    Few-shot examples are sampled from `train`, which is called only if the style has any. `Problem.solution` is the
    target response after the prompt, `lead` included.

    Raises:
        InputError: fewer problems than `count`, or too few worked solutions for the examples.
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
    """Samples `count` different questions with their worked solutions, the same ones at every call.

    Raises:
        InputError: the train split has fewer.
    """
    examples: dict[str, str] = {}
    for k in np.random.default_rng(EXAMPLE_SEED).permutation(len(train)).tolist():
        if train[k].solution is not None:
            examples.setdefault(train[k].question, train[k].solution or "")
        if len(examples) == count:
            return list(examples.items())
    raise InputError(f"{count} worked solutions are needed for the examples; train has {len(examples)}", "prompt_style")
