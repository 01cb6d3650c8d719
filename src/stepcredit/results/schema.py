"""Schema of result files: the columns of every kind of row, in order.

A row consists of identifying columns, its key, and of measurements. A column with its default value is omitted from the
file, unless it is `NULLABLE`. A new row replaces an old one with the same key; rows whose keys differ only in `BY_SEED`
are aggregated over seeds.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

BY_SEED = ("seed", "policy", "value", "learning_rate")
"""Columns of the key that may differ between seeds of one measurement."""


class Range(NamedTuple):
    """Closed range of the numbers in a column."""

    low: float
    high: float = float("inf")


Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(0)]
Number = Annotated[int, Range(1)]
Verdict = Literal["right", "wrong", "undecided"]


NULLABLE = {"nullable": True}
"""Metadata of a column that is never omitted, and null if unknown."""


def column(item: Field[Any]) -> str:
    """Returns the column name of a field: its name without the underscore that avoids a Python keyword."""
    return item.name.rstrip("_")


def written(row: Any) -> dict[str, Any]:
    """Converts a row to a JSON object."""
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
    """Base class of rows.

    Attributes:
        task, task_version, source_versions, prompt_style, split: the problems and their prompts.
        seed: seed of the problems, of training and of the sampling noise.
        more: columns unknown to this version, which are preserved.
    """

    ABOUT: ClassVar[tuple[str, ...]] = ()
    """Further columns of the key of this kind of row."""

    task: str
    task_version: str | int | None = None
    source_versions: dict[str, Any] | None = None
    prompt_style: str | None = None
    split: str = ""
    seed: Count | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """Returns the identifying columns that are not None."""
        names = [item.name for item in (*fields(Row), *fields(PolicyRow)) if item.name != "more"]
        values = {name: getattr(self, name, None) for name in dict.fromkeys([*names, *self.ABOUT])}
        return {name: value for name, value in values.items() if value is not None}

    def key(self, without: tuple[str, ...] = ()) -> str:
        """Returns the key of the row, as JSON, without some columns."""
        return json.dumps({k: v for k, v in self.about().items() if k not in without}, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class PolicyRow(Row):
    """Base class of rows about responses of a policy. Settings that are None have their defaults.

    Attributes:
        method: training method of the policy; round: round of iterative training.
        policy, value: folders of the models.
        search, width: search and its width.
        temperature … top_k: sampling parameters, if not the defaults.
        max_new_tokens … max_turns: limits, if not those of the task.
        continuations, max_step_tokens, choose: settings of beam search; budget, reward_model: of any search.
        engine, dtype, chat_template, merge_system_message: engine, precision of the policy, and prompt format.
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
    dtype: str | None = None
    chat_template: str | None = None
    merge_system_message: bool | None = None


@dataclass(frozen=True, kw_only=True)
class AtK:
    """Accuracy of k samples: pass@k and, if there are answers, maj@k."""

    k: Number
    pass_: Share
    pass_stderr: float | None = field(default=None, metadata=NULLABLE)
    majority: Share | None = None
    majority_stderr: float | None = None


@dataclass(frozen=True, kw_only=True)
class AccuracyRow(PolicyRow):
    """Row of `results.json`, or of `grid.json` (learning rates tried).

    Attributes:
        n: number of problems.
        accuracy, stderr: share of right responses, with its standard error over problems.
        stderr_problems: where several seeds have the same problems, the standard error, over problems, of the mean of
            their accuracies.
        accuracy_strict, stderr_strict: the same, counting only answers behind the requested marker; set if different.
        at_k: pass@k and maj@k for every power of two up to the width, if there are several samples.
        truncated, undecided: number of such responses, which count as not right.
        tokens_generated, tokens_scored: totals over all problems.
        learning_rate, steps, epochs, tokens_trained, episodes: training budget.
        stopped: reason why training stopped early; chosen: whether this learning rate was chosen.
    """

    ABOUT = ("learning_rate",)

    search: str = field()
    n: Number
    accuracy: Share
    stderr: Annotated[float, Range(0)] | None = field(default=None, metadata=NULLABLE)
    stderr_problems: Annotated[float, Range(0)] | None = None
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
    """Row of `groups.json`: accuracy on the problems of one level or type."""

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
    """Row of `value.json`: quality of a value model on responses of a policy.

    Attributes:
        metric, at: the metric, and the share of the steps after which V is read.
        estimate, low, high: estimate with its 95% interval.
        n, prompts: number of comparisons and of prompts.
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
    """Row of `localisation.json`: localisation of wrong steps by a signal, or calibration of V.

    Attributes:
        signal: for example "oreo ΔV"; against: policy whose continuations V is compared with.
        metric, at: as in `ValueRow`; for the metric calibration, at and to are the edges of a bin of V.
        predicted, estimate: mean V and success rate in the bin; otherwise the estimate with its interval.
        stderr: standard error of the success rate in a bin.
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
    """Row of `pairs.json`: two methods compared on the same problems and seeds.

    Attributes:
        difference, low, high: accuracy of a minus that of b, with its paired bootstrap interval.
        only_a, only_b: number of problems that only one method got right, or on more seeds; p: McNemar's exact test.
        n, seeds: number of responses per method, and of seeds.
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
    """Step of a response: V after it, and whether it is right; None if unknown."""

    text: str
    value: float | None = field(default=None, metadata=NULLABLE)
    right: bool | None = field(default=None, metadata=NULLABLE)


@dataclass(frozen=True, kw_only=True)
class CreditExample:
    """Row of `credit.json`: a response with V before its first step and after each."""

    task: str = ""
    prompt: str | list[Any]
    answer: str | int | float | None = field(default=None, metadata=NULLABLE)
    extracted: str | int | float | None = field(default=None, metadata=NULLABLE)
    verdict: Verdict
    value_initial: float | None = field(default=None, metadata=NULLABLE)
    steps: list[StepValue]


@dataclass(frozen=True, kw_only=True)
class PhaseTime:
    """Row of `timings.json`: seconds of one phase of a run."""

    phase: str
    seconds: Annotated[float, Range(0)]
