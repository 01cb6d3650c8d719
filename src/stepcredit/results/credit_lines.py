"""Schema of `credit.jsonl`: the credit of every token, step and turn, one JSON object per line.

The first line is a `CreditRun`; then, for each episode, a `CreditEpisode`, and in the order of the text a
`CreditObservation` for what the policy did not write, a `CreditStep` for every step and, after it, a `CreditToken` for
each of its tokens. The field `line` of an object names its kind; a field is null where there is no number.

V is a list with one number per value model, in the order of `CreditRun.value_models`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from stepcredit.errors import InputError
from stepcredit.results.row_files import parsed

CREDIT_FILE = "credit.jsonl"
Values = list[float | None]
Outcome = Literal["right", "wrong", "undecided", "truncated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditRun:
    """First line: what the numbers are from.

    Attributes:
        episodes: folders of the episodes.
        value_models, levels: names of the value models, and the level at which each was trained: token, step or
            response, null if unknown. V of a step-level model is given at the starts of steps, that of a
            response-level one at the prompt.
        policy, ref_model: names of π and π_ref; null if there are none.
        step_delimiters: a step ends after any of these.
        total: number of episodes in the folders, of which the file may hold fewer.
        versions: versions of the packages.
    """

    line: ClassVar[str] = "run"

    episodes: list[str]
    value_models: list[str]
    levels: list[str | None]
    policy: str | None = None
    ref_model: str | None = None
    step_delimiters: list[str]
    total: int
    versions: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditEpisode:
    """A response, with V of its prompt.

    Attributes:
        episode: number of the response in the file, from 0; repeated in its other lines.
        source: the task of collected episodes, otherwise the folder.
        prompt_id, sample: as in the episode.
        verdict: right, wrong, undecided, or truncated by a length limit.
        reward: the outcome reward; null if undecided.
        prompt: text or chat messages.
        extracted, answer: the answer that was graded, and the gold answer.
        metadata: the other columns of the logs, such as an id of theirs.
        value: V before the first action.
    """

    line: ClassVar[str] = "episode"

    episode: int
    source: str
    prompt_id: str
    sample: int
    verdict: Outcome
    reward: float | None
    prompt: str | list[Any]
    extracted: str | int | float | None = None
    answer: str | int | float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    value: Values


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditObservation:
    """A message between two turns of the policy, or the text of a turn that a limit cut, which is no action."""

    line: ClassVar[str] = "observation"

    episode: int
    role: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditStep:
    """A step of a response.

    Attributes:
        episode, turn, step: number of the episode, of the turn within it and of the step within the episode, from 0.
        end: whether it is the token that ends a turn, a step of its own. Over that of an earlier turn, the change of V
            is that over the observation.
        text: its text.
        value: V after it: before the next step. Null after the last one: there the episode is over, or was cut.
        change: V after it minus V before it.
        log_ratio, kl: sums over its tokens; null without π and π_ref.
        reward: its step reward, if the episode has step rewards.
        false_equation: whether a calculator finds a false equation in it.
    """

    line: ClassVar[str] = "step"

    episode: int
    turn: int
    step: int
    end: bool
    text: str
    value: Values
    change: Values
    log_ratio: float | None
    kl: float | None
    reward: float | None = None
    false_equation: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditToken:
    """A token of a step.

    Attributes:
        episode, step: the step that it belongs to.
        position, id, text: its position in the sequence, its id, and the text that it adds.
        value: V before it.
        change: V before the next action minus V before it.
        log_ratio: ρ = log π(a|s) − log π_ref(a|s), in nats.
        kl: KL[π(·|s) ‖ π_ref(·|s)], in nats.
    """

    line: ClassVar[str] = "token"

    episode: int
    step: int
    position: int
    id: int
    text: str
    value: Values
    change: Values
    log_ratio: float | None
    kl: float | None


CreditLine = CreditRun | CreditEpisode | CreditObservation | CreditStep | CreditToken
KINDS: dict[str, type[CreditLine]] = {
    kind.line: kind for kind in (CreditRun, CreditEpisode, CreditObservation, CreditStep, CreditToken)
}


def line_of(row: CreditLine) -> dict[str, Any]:
    """Converts a line to a JSON object."""
    return {"line": row.line, **{item.name: getattr(row, item.name) for item in fields(row)}}


def read_credit(path: Path) -> Iterator[CreditLine]:
    """Yields the lines of `credit.jsonl`.

    Raises:
        InputError: the file cannot be read, does not begin with a run, or a line is invalid or not where it may be.
    """
    run: CreditRun | None = None
    last: CreditLine | None = None
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                last = _line(text, run, last, f"{path}, line {number}")
                run = last if isinstance(last, CreditRun) else run
                yield last
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", str(path)) from error


def _line(text: str, run: CreditRun | None, last: CreditLine | None, where: str) -> CreditLine:
    """Parses a line that follows another one of a run."""
    try:
        row = json.loads(text)
    except ValueError as error:
        raise InputError(f"no JSON ({error})", where) from error
    if not isinstance(row, dict):
        raise InputError("must be a JSON object", where)
    kind = KINDS.get(str(row.get("line")))
    if kind is None or (kind is CreditRun) != (run is None):
        raise InputError('not a file of credit: the first line, and no other, is of line "run"', where)
    if isinstance(last, CreditRun) and kind is not CreditEpisode:
        raise InputError(f"a {kind.line} before the first episode", where)
    if kind is CreditToken and not isinstance(last, CreditStep | CreditToken):
        raise InputError("a token before the first step", where)
    line = parsed(kind, row, where)
    for name in ("value", "change"):
        if run is not None and len(getattr(line, name, run.value_models)) != len(run.value_models):
            raise InputError(f"field {name!r} must have one number per value model", where)
    return line
