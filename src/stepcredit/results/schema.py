"""The schema of result files: the columns of every kind of row, in their order.

A row says what it is about and what was measured. A column with its default value is left out of the file, unless it
is `NULLABLE`. What a row is about is its key: of two rows with one key the newer replaces the older, and rows whose
keys differ in no more than `BY_SEED` are put together over seeds.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

BY_SEED = ("seed", "policy", "value", "learning_rate")
"""What seeds of one measurement may differ in."""


class Range(NamedTuple):
    """The smallest and the largest number that a column holds; both are allowed."""

    low: float
    high: float = float("inf")


Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(0)]
Number = Annotated[int, Range(1)]
Verdict = Literal["right", "wrong", "undecided"]


NULLABLE = {"nullable": True}
"""The metadata of a column that is null where nothing is known, and never left out."""


def column(item: Field[Any]) -> str:
    """The name of a field in the file: that of the field, without the underscore that keeps it off Python's words."""
    return item.name.rstrip("_")


def written(row: Any) -> dict[str, Any]:
    """A row as the JSON object that a file holds."""
    columns = {}
    for item in fields(row):
        value, default = getattr(row, item.name), item.default
        if item.name == "more":
            continue
        if default is MISSING or value != default or item.metadata.get("nullable"):
            columns[column(item)] = [written(part) for part in value] if _is_rows(value) else value
    return {**columns, **getattr(row, "more", {})}


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and hasattr(value[0], "__dataclass_fields__")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every row is about.

    Attributes:
        task, task_version, source_versions, prompt_style, split: the problems, and how they were put.
        seed: of the problems, the training and the sampling noise.
        more: columns that this version does not know; they are kept.
    """

    ABOUT: ClassVar[tuple[str, ...]] = ()
    """Columns of this kind alone that are part of its key."""

    task: str
    task_version: str | int | None = None
    source_versions: dict[str, Any] | None = None
    prompt_style: str | None = None
    split: str = ""
    seed: Count | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """What the row is about, by column; what is not told is left out."""
        names = [item.name for item in (*fields(Row), *fields(PolicyRow)) if item.name != "more"]
        told = {name: getattr(self, name, None) for name in dict.fromkeys([*names, *self.ABOUT])}
        return {name: value for name, value in told.items() if value is not None}

    def key(self, without: tuple[str, ...] = ()) -> str:
        """What tells the row from others."""
        return json.dumps({k: v for k, v in self.about().items() if k not in without}, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class PolicyRow(Row):
    """What a row about a policy's responses is about. Settings that are not told have their defaults.

    Attributes:
        method: how the policy was trained; round: of several.
        policy, value: the folders of the models.
        search, width: how a response was found, among how many.
        temperature … top_k: sampling, where it is not plain.
        max_new_tokens … max_turns: limits, where they are not the task's.
        continuations, max_step_tokens, choose: of a beam; budget, reward_model: of any search.
        engine, chat_template, merge_system_message: how the policy was asked.
    """

    method: str
    round: Count | None = None
    policy: str | None = None
    value: str | None = field(default=None, metadata=NULLABLE)
    search: str | None = None
    width: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_new_tokens: int | None = None
    max_turns: int | None = None
    continuations: int | None = None
    max_step_tokens: int | None = None
    choose: str | None = None
    budget: int | None = None
    reward_model: str | None = None
    engine: str | None = None
    chat_template: str | None = None
    merge_system_message: bool | None = None


@dataclass(frozen=True, kw_only=True)
class AtK:
    """What k samples are worth together: pass@k and, where there are answers, maj@k."""

    k: Number
    pass_: Share
    pass_stderr: float | None = field(default=None, metadata=NULLABLE)
    majority: Share | None = None
    majority_stderr: float | None = None


@dataclass(frozen=True, kw_only=True)
class AccuracyRow(PolicyRow):
    """A row of `results.json`, or of `grid.json`, where learning rates are chosen.

    Attributes:
        n: problems.
        accuracy, stderr: the share that is solved, with its standard error over problems.
        accuracy_strict, stderr_strict: counting only answers behind the marker that was asked for, where that differs.
        at_k: for every power of two up to the width, where several samples count.
        truncated, undecided: how many responses; they count as not right.
        tokens_generated, tokens_scored: over all problems.
        learning_rate, steps, epochs, tokens_trained, episodes: the training.
        stopped: why training at this rate ended early; chosen: whether the rate was.
    """

    ABOUT = ("learning_rate",)

    search: str = field()
    n: Number
    accuracy: Share
    stderr: Annotated[float, Range(0)] | None = field(default=None, metadata=NULLABLE)
    accuracy_strict: Share | None = None
    stderr_strict: float | None = None
    at_k: list[AtK] | None = None
    truncated: Count | None = None
    undecided: Count | None = None
    tokens_generated: Count | None = None
    tokens_scored: Count | None = None
    learning_rate: float | None = None
    steps: Count | None = None
    epochs: float | None = None
    tokens_trained: Count | None = None
    episodes: Count | None = None
    stopped: str | None = None
    chosen: bool | None = None


@dataclass(frozen=True, kw_only=True)
class GroupRow(PolicyRow):
    """A row of `groups.json`: the accuracy on the problems of one level or type."""

    ABOUT = ("by", "group")

    by: str
    group: str | int | float
    n: Number
    accuracy: Share
    stderr: float | None = field(default=None, metadata=NULLABLE)
    accuracy_strict: Share | None = field(default=None, metadata=NULLABLE)
    stderr_strict: float | None = field(default=None, metadata=NULLABLE)


@dataclass(frozen=True, kw_only=True)
class ValueRow(PolicyRow):
    """A row of `value.json`: what a value function knows of the responses of a policy.

    Attributes:
        metric, at: what was measured, after which share of the steps.
        estimate, low, high: with its 95% interval.
        n, prompts: comparisons, and the prompts that they come from.
    """

    ABOUT = ("metric", "at")

    metric: str
    at: float | None = field(default=None, metadata=NULLABLE)
    estimate: float
    low: float | None = field(default=None, metadata=NULLABLE)
    high: float | None = field(default=None, metadata=NULLABLE)
    n: Count | None = None
    prompts: Count | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class SignalRow(Row):
    """A row of `localisation.json`: does a signal find wrong steps, does V agree with what comes true?

    Attributes:
        signal: for example "oreo ΔV"; against: whose continuations V is compared with.
        metric, at: as in `ValueRow`; of metric calibration, at and to are the edges of a bin of V.
        predicted, estimate: mean V and success rate in the bin; otherwise the estimate with its interval.
        stderr: of a bin's success rate.
    """

    ABOUT = ("signal", "against", "metric", "at", "to")

    signal: str
    against: str | None = None
    metric: str
    at: float | None = field(default=None, metadata=NULLABLE)
    to: float | None = None
    predicted: float | None = None
    estimate: float
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    n: Count
    prompts: Count | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PairRow(Row):
    """A row of `pairs.json`: how far one method is ahead of another on the same problems of the same seeds.

    Attributes:
        difference, low, high: of accuracy, a less b, with its paired bootstrap interval.
        only_a, only_b: responses that only one of them got right; p: McNemar's exact test of these.
        n, seeds: responses of each, and the seeds they come from.
    """

    ABOUT = ("search", "method_a", "method_b")

    search: str
    method_a: str
    method_b: str
    difference: Annotated[float, Range(-1, 1)]
    low: Annotated[float, Range(-1, 1)]
    high: Annotated[float, Range(-1, 1)]
    only_a: Count
    only_b: Count
    p: Share
    n: Count | None = None
    seeds: Count | None = None


@dataclass(frozen=True, kw_only=True)
class StepValue:
    """One step of a response: V after it, and whether it is right. None: not known."""

    text: str
    value: float | None = field(default=None, metadata=NULLABLE)
    right: bool | None = field(default=None, metadata=NULLABLE)


@dataclass(frozen=True, kw_only=True)
class CreditExample:
    """A row of `credit.json`: a response with V before its first step and after each."""

    task: str = ""
    prompt: str | list[Any]
    answer: str | int | float | None = field(default=None, metadata=NULLABLE)
    extracted: str | int | float | None = field(default=None, metadata=NULLABLE)
    verdict: Verdict
    value_initial: float | None = field(default=None, metadata=NULLABLE)
    steps: list[StepValue]


@dataclass(frozen=True, kw_only=True)
class PhaseTime:
    """A row of `timings.json`: the seconds of one phase of a run."""

    phase: str
    seconds: Annotated[float, Range(0)]
