"""Metrics of step credit: does the largest drop of a signal locate the first wrong step?

A *signal* is one number per step of every judged response, a list of arrays [steps]: ΔV of a value model, β Σρ of a
policy, minus the error rate of the step's kind (the control), or the change of the success rate of fresh continuations
(the ceiling).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stepcredit.engines.engine import Engine, Request, SamplingParams
from stepcredit.episodes.alignment import TokenTexts, Trajectory, align
from stepcredit.episodes.encoding import response_text
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.evaluation.value_quality import Scored, value_at
from stepcredit.metrics.calibration import TENTHS, Bin, calibration, expected_calibration_error, squared_error
from stepcredit.metrics.localisation import (
    StepCredit,
    every_step,
    first_wrong_step_accuracy,
    kind_prior_change,
    kind_rates,
    matched_pairs,
    up_to_first_wrong,
)
from stepcredit.metrics.ranking import Estimate, auc_across, auc_within
from stepcredit.models.scoring import log_ratios_of, step_starts, sum_over_steps, value_after_steps, values_of
from stepcredit.progress import track
from stepcredit.results.schema import SignalRow
from stepcredit.tasks.task import Problem, Task
from stepcredit.verdict import Verdict

Signal = list[NDArray[Any]]
"""Change over each step of each judged response, arrays [steps]."""

ONLY_KIND = "step"
"""Kind of every step of a task without kinds."""

SHARES = (0.25, 0.5, 0.75, 1.0)


@runtime_checkable
class KnowsKinds(Protocol):
    """A task whose steps have kinds."""

    def step_kinds(self, response: str) -> list[str]:
        """Returns the kind of each step of a response."""
        ...


@dataclass(frozen=True, eq=False)
class Judged:
    """Finished, decided response with labelled steps.

    `kinds` and `wrong` have one entry per step; the end token is not a step.
    """

    episode: Episode
    trajectory: Trajectory
    kinds: tuple[str, ...]
    wrong: tuple[bool, ...]

    @property
    def right(self) -> bool:
        """Whether the response as a whole is right."""
        return self.episode.reward == 1

    @property
    def prompt_id(self) -> str:
        """Id of the prompt."""
        return self.episode.prompt_id


def judge(
    task: Task, problems: Sequence[Problem], tokenizer: Any, episodes: Sequence[Episode], rule: StepRule
) -> list[Judged]:
    """Returns the responses with labelled steps, right and wrong ones, in order.

    Omits truncated and undecided responses, those whose steps the task cannot label, and those whose number of steps
    differs between task and rule.
    """
    by_id = {p.prompt_id: p for p in problems}
    pieces = TokenTexts(tokenizer)
    judged = []
    for episode in episodes:
        if episode.reward is None or episode.truncated or not isinstance(episode.completion, str):
            continue
        wrong = task.wrong_steps(by_id[episode.prompt_id], episode.completion)
        if wrong is None:
            continue
        kinds = task.step_kinds(episode.completion) if isinstance(task, KnowsKinds) else [ONLY_KIND] * len(wrong)
        trajectory = align(episode, tokenizer, rule, pieces)
        if len(wrong) == len(kinds) == len(step_starts(trajectory)) - 1:
            judged.append(Judged(episode, trajectory, tuple(kinds), tuple(wrong)))
    return judged


def values_after_steps(judged: Sequence[Judged], value_model: Any, batch_size: int = 64) -> Signal:
    """Returns V before the first step and after each step, per response: arrays [steps + 1]."""
    trajectories = [j.trajectory for j in judged]
    values = values_of(value_model, trajectories, batch_size)
    return [value_after_steps(t, v) for t, v in zip(trajectories, values, strict=True)]


def changes(after_steps: Sequence[NDArray[Any]]) -> Signal:
    """Returns the explicit signal: the change of values or success rates [steps + 1] over each step."""
    return [np.diff(v) for v in after_steps]


def implicit_changes(
    judged: Sequence[Judged], policy: Any, reference: Any, beta: float, batch_size: int = 64
) -> Signal:
    """Returns the implicit signal: β Σρ per step, which at the optimum is the change of V* (terminal reward)."""
    trajectories = [j.trajectory for j in judged]
    ratios = log_ratios_of(policy, reference, trajectories, batch_size)
    return [beta * sum_over_steps(t, r) for t, r in zip(trajectories, ratios, strict=True)]


def rates_of_kinds(training: Sequence[Judged]) -> dict[str, float]:
    """Returns P(wrong | kind) in training responses (see `kind_rates`)."""
    return kind_rates((j.kinds, j.wrong) for j in training)


def prior_changes(judged: Sequence[Judged], rates: dict[str, float]) -> Signal:
    """Returns the control signal: minus the error rate of the step's kind, regardless of its content."""
    return [np.array(kind_prior_change(j.kinds, rates)) for j in judged]


def continuation_success(
    task: Task,
    problems: Sequence[Problem],
    judged: Sequence[Judged],
    engine: Engine,
    continuations: int = 64,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> Signal:
    """Returns the success rate of fresh continuations before the first step and after each: arrays [steps + 1].

    A Monte Carlo estimate of V^π of the engine's policy, independent of any value model. From each state (the prompt,
    every prefix of steps, and the finished response before its end token; exact ids) continuations are sampled at
    temperature 1 and the whole response is graded. Truncated and undecided responses do not succeed. A state shared by
    several responses is sampled once; its noise depends only on the seed and the state.

    Args:
        task, problems: the task, which grades, and its problems.
        judged: the responses.
        engine: engine of the policy.
        continuations: number of continuations per state.
        seed: seed of the sampling noise.
        max_new_tokens: length limit of whole responses; None: that of the task.
    """
    by_id = {p.prompt_id: p for p in problems}
    states_of = [[_state(j, start) for start in step_starts(j.trajectory)] for j in judged]
    by_length: dict[int, list[State]] = {}
    for state in dict.fromkeys(s for states in states_of for s in states):
        by_length.setdefault(len(state.written), []).append(state)
    rates: dict[State, float] = {}
    for written, states in track(sorted(by_length.items()), "continuations", len(by_length), "lengths"):
        room = (max_new_tokens or task.max_new_tokens) - written
        drawn = _successes(task, by_id, states, engine, continuations, seed, room) if room > 0 else ()
        successes = dict.fromkeys(states, 0)
        for state, success in drawn:
            successes[state] += success
        rates |= {state: count / continuations for state, count in successes.items()}
    return [np.array([rates[s] for s in states]) for states in states_of]


@dataclass(frozen=True)
class State:
    """State from which continuations start: ids of the prompt and of the response so far."""

    prompt_id: str
    prompt: tuple[int, ...]
    written: tuple[int, ...]

    def request(self, sample: int) -> Request:
        """Returns a request for a continuation; its noise differs from that of whole responses."""
        name = f"{self.prompt_id}\x1fafter {' '.join(map(str, self.written))}"
        return Request(self.prompt + self.written, name, sample)


def _state(judged: Judged, position: int) -> State:
    ids = judged.trajectory.ids
    first = judged.trajectory.prompt_length
    return State(judged.prompt_id, tuple(ids[:first].tolist()), tuple(ids[first:position].tolist()))


def _successes(
    task: Task,
    by_id: Mapping[str, Problem],
    states: Sequence[State],
    engine: Engine,
    continuations: int,
    seed: int,
    room: int,
) -> Iterator[tuple[State, bool]]:
    """Yields (state, whether the response is right) for every continuation."""
    pairs = [(state, state.request(k)) for state in states for k in range(continuations)]
    params = SamplingParams(max_new_tokens=room, temperature=1.0, stop=task.stop, seed=seed)
    drawn = engine.generate([request for _, request in pairs], params)
    for (state, _), generation in zip(pairs, drawn, strict=True):
        whole = np.concatenate([np.array(state.written, dtype=np.int32), generation.ids])
        finished = generation.stop_reason is not StopReason.LENGTH
        text = response_text(whole.tolist(), engine.tokenizer, engine.ends)
        grade = task.grade(by_id[state.prompt_id], text) if finished else None
        yield state, grade is not None and grade.verdict is Verdict.RIGHT


def credit_rows(
    judged: Sequence[Judged], signals: Mapping[str, Signal], common: dict[str, Any], seed: int = 0
) -> list[SignalRow]:
    """Returns rows on how well each signal locates wrong steps; rows without data are omitted.

    first_wrong_step: share of wrong responses whose largest drop is at the first wrong step.
    kind_matched_pairs: how often the signal is lower at the first wrong step than at a right step of the same kind and
    prompt that precedes any wrong one; one half for a signal that depends on the kind only.
    kind_matched_pairs_all: the same over all wrong and all right steps.
    first_wrong_step_chance, of signal "chance": a random step of the response.

    Raises:
        InputError: a signal is not one finite number per step.
    """
    groups = [j.prompt_id for j in judged]
    rows = []
    for name, signal in signals.items():
        credits, same = _credits(judged, name, signal), {**common, "signal": name}
        located, _ = _localisation(judged, credits, seed)
        pairs = matched_pairs(credits, groups, up_to_first_wrong, seed=seed)
        every_pair = matched_pairs(credits, groups, every_step, seed=seed)
        rows += [
            _row(same, "first_wrong_step", None, located, "largest drop is the first wrong step"),
            _row(same, "kind_matched_pairs", None, pairs, "first wrong step drops below a right one of its kind"),
            _row(same, "kind_matched_pairs_all", None, every_pair, "wrong step drops below a right one of its kind"),
        ]
    flat = [StepCredit([0.0] * len(j.wrong), j.wrong) for j in judged]
    located, chance = _localisation(judged, flat, seed)
    by_chance = located._replace(estimate=chance, low=float("nan"), high=float("nan"))
    same = {**common, "signal": "chance"}
    rows.append(_row(same, "first_wrong_step_chance", None, by_chance, "any step of the response"))
    return [row for row in rows if row.n]


def _localisation(judged: Sequence[Judged], credits: Sequence[StepCredit], seed: int) -> tuple[Estimate, float]:
    """Returns `first_wrong_step_accuracy` over the wrong responses."""
    wrong = [(credit, j.prompt_id) for credit, j in zip(credits, judged, strict=True) if not j.right]
    return first_wrong_step_accuracy([c for c, _ in wrong], [prompt for _, prompt in wrong], seed=seed)


def _credits(judged: Sequence[Judged], name: str, signal: Signal) -> list[StepCredit]:
    """Combines a signal with the labels of the steps."""
    if len(signal) != len(judged):
        raise InputError(f"has {len(signal)} responses; must have one entry per judged response, {len(judged)}",
                         f"signal {name}")  # fmt: skip
    for change, j in zip(signal, judged, strict=True):
        if change.shape != (len(j.wrong),) or not np.isfinite(change).all():
            raise InputError("must be one finite number per step", f"signal {name}, prompt {j.prompt_id}")
    return [StepCredit(change.tolist(), j.wrong, j.kinds) for change, j in zip(signal, judged, strict=True)]


def auc_rows(scored: Sequence[Scored], common: dict[str, Any], seed: int = 0) -> list[SignalRow]:
    """Returns the AUC of V as a predictor of success at 25, 50, 75 and 100% of the steps, within and across prompts.

    The AUC across prompts also rewards distinguishing easy prompts from hard ones.
    """
    right = [s.episode.reward == 1 for s in scored]
    groups = [s.episode.prompt_id for s in scored]
    rows = []
    for share in SHARES:
        values = [value_at(s, share) for s in scored]
        note = "before the end token" if share == 1 else f"{share:.0%} of the steps written"
        for metric, auc in (("auc_within_prompt", auc_within), ("auc_across_prompts", auc_across)):
            rows.append(_row(common, metric, share, auc(values, right, groups, seed=seed), note))
    return [row for row in rows if row.n]


def with_values(judged: Sequence[Judged], after_steps: Sequence[NDArray[Any]]) -> list[Scored]:
    """Combines judged responses with values or success rates [steps + 1], for `auc_rows`."""
    return [Scored(j.episode, j.trajectory, v) for j, v in zip(judged, after_steps, strict=True)]


def calibration_rows(
    scored: Sequence[Scored],
    success: Sequence[NDArray[Any]],
    trials: int,
    common: dict[str, Any],
    edges: Sequence[float] = TENTHS,
    seed: int = 0,
) -> list[SignalRow]:
    """Returns rows on the calibration of V against the success rate of continuations: bins and two summaries.

    States are counted once per response that visits them; errors are clustered by prompt.

    Args:
        scored: responses with V before the first step and after each.
        success: success rates at the same states, from `continuation_success`.
        trials: number of continuations per rate, 2 or more.
        common: columns shared by the rows.
        edges: edges of the bins of V.
        seed: seed of the bootstrap.
    """
    if not scored:
        return []
    predicted = np.concatenate([s.value for s in scored]).astype(np.float64)
    right = np.concatenate(list(success)) * trials
    groups = np.concatenate([[s.episode.prompt_id] * len(s.value) for s in scored])
    bins = calibration(predicted, right, trials, edges, groups)
    error = squared_error(predicted, right, trials, groups, seed=seed)
    nan = float("nan")
    ece = Estimate(expected_calibration_error(bins), nan, nan, error.groups, error.pairs)
    return [
        *(_bin_row(common, b) for b in bins),
        _row(common, "expected_calibration_error", None, ece, "over the bins; noise adds to it"),
        _row(common, "value_squared_error", None, error, "against success rates, their noise taken off"),
    ]


def _bin_row(common: dict[str, Any], b: Bin) -> SignalRow:
    return SignalRow(
        **common,
        metric="calibration",
        at=_number(b.low),
        to=_number(b.high),
        predicted=_number(b.predicted),
        estimate=round(b.observed, 6),
        stderr=_number(b.stderr),
        n=b.n,
        note="success rate by predicted V",
    )


def _row(common: dict[str, Any], metric: str, at: float | None, e: Estimate, note: str) -> SignalRow:
    ends: dict[str, Any] = {"low": _number(e.low), "high": _number(e.high)}
    estimate = round(float(e.estimate), 6)
    return SignalRow(**common, metric=metric, at=at, estimate=estimate, **ends, n=e.pairs, prompts=e.groups, note=note)


def _number(x: float) -> float | None:
    """Rounds to six decimals; None for NaN."""
    return None if np.isnan(x) else round(float(x), 6)
