"""Step beam: of several continuations of one step each, the most valued go on.

A round draws continuations of every beam, `continuations` each (of the prompt `width` times as many, so that the
first round has as many candidates as the others). Identical ones count once. The `width` most valued are kept; of
these the finished ones leave for the pool and their places are not filled again. One that meets a limit, on length or
on the budget, is no answer and no beam: V is not read where no step ends. When no beam is left, the pool's most valued
response is chosen, or a vote weighed by values.

Source: OREO (arXiv 2412.16145), section on test-time search; its published code draws `width` candidates
only in the first round, keeps identical beams and counts cut responses as answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepcredit.engines.decoding import Draw, Piece
from stepcredit.engines.noise import stream_key
from stepcredit.engines.stepping import Stepper
from stepcredit.episodes.episode import StopReason
from stepcredit.errors import InputError
from stepcredit.search.responses import AnswerOf, Asked, Found, Node, Response
from stepcredit.search.scorers import Reading, Scorer, Scoring
from stepcredit.search.selection import by_value, by_weighted_vote

_TAIL = 64


@dataclass(frozen=True)
class BeamParams:
    """How wide and how far.

    Attributes:
        width: beams kept, B.
        continuations: drawn of each beam, C; None is `width`, as in the paper. With width 1 this is best-of-C a step.
        max_new_tokens: length limit of a response.
        choose: "value", or "vote" for a vote weighed by values.
        budget: tokens generated and scored together, at most so many a problem; None is no limit.
        seed: of the noise.

    Raises:
        InputError: a setting out of range.
    """

    width: int
    continuations: int | None = None
    max_new_tokens: int = 2048
    choose: str = "value"
    budget: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "continuations", "max_new_tokens", "budget"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise InputError(f"{given} must be 1 or more", name)
        if self.choose not in ("value", "vote"):
            raise InputError(f"{self.choose!r} is neither value nor vote", "choose")

    @property
    def each(self) -> int:
        """Continuations of a beam."""
        return self.continuations or self.width


@dataclass(frozen=True)
class _Beam:
    """A response in the making, and its row in stepper and scoring."""

    row: int
    ids: tuple[int, ...] = ()
    log_prob: tuple[float, ...] = ()
    tail: str = ""
    node: int = 0


@dataclass
class _Problem:
    """One prompt's search."""

    asked: Asked
    found: Found
    beams: list[_Beam]
    round: int = 0


@dataclass(frozen=True)
class _Candidate:
    """A piece, the beam it goes on, and its number among the draws of the round."""

    problem: _Problem
    beam: _Beam
    draw: int
    piece: Piece
    node: Node


def beam_search(
    prompts: Sequence[Asked],
    stepper: Stepper,
    scorer: Scorer,
    params: BeamParams,
    answer_of: AnswerOf | None = None,
) -> list[Found]:
    """A step beam for each prompt, all in one batch; none of them changes what another finds.

    Args:
        prompts: what is asked.
        stepper: draws the pieces.
        scorer: says which are best. A problem for which it says NaN is given up, with an error; the others go on.
        params: how wide.
        answer_of: for `choose="vote"`.
    """
    scoring, values, read = scorer.start([p.prompt_ids for p in prompts])
    stepper.start([p.prompt_ids for p in prompts])
    problems = []
    for row, (asked, value, cost) in enumerate(zip(prompts, values.tolist(), read, strict=True)):
        root = Node(0, None, 0, "", 0, value, "root")
        problems.append(_Problem(asked, Found(tokens_scored=cost, nodes=[root]), [_Beam(row)]))
    active = problems
    while active := [p for p in active if p.beams and _room(p, params) > 0]:
        _round(active, stepper, scoring, params)
    for problem in problems:
        _choose(problem, params, answer_of)
    return [problem.found for problem in problems]


def _continuations(problem: _Problem, params: BeamParams) -> int:
    """Draws of each beam: of the bare prompt as many as of a full set of beams together."""
    return params.each * (params.width if problem.round == 0 else 1)


def _room(problem: _Problem, params: BeamParams) -> int:
    """Tokens that each piece of the next round may have, so that drawing and scoring all of them keeps the budget."""
    if params.budget is None:
        return params.max_new_tokens
    left = params.budget - problem.found.tokens_generated - problem.found.tokens_scored
    return left // (2 * len(problem.beams) * _continuations(problem, params))


def _round(problems: Sequence[_Problem], stepper: Stepper, scoring: Scoring, params: BeamParams) -> None:
    """One step of every beam of every problem."""
    planned = [
        (problem, beam, _draw(problem, rank, beam, k, params))
        for problem in problems
        for rank, beam in enumerate(problem.beams)
        for k in range(_continuations(problem, params))
    ]
    pieces = stepper.draw([draw for _, _, draw in planned])
    candidates: list[_Candidate] = []
    for problem in problems:
        drawn = [(n, beam, pieces[n]) for n, (p, beam, _) in enumerate(planned) if p is problem]
        candidates += _candidates(problem, drawn)
        problem.found.tokens_generated += sum(piece.drawn for _, _, piece in drawn)
    scored = _scored(candidates, scoring)
    kept = [(k, c) for problem in problems for k, c in _kept(problem, scored, params)]
    if kept:
        stepper.keep([candidate.draw for _, candidate in kept])
        scoring.keep([k for k, _ in kept])
    for problem in problems:
        problem.round += 1
        problem.beams = [_grown(c, row) for row, (_, c) in enumerate(kept) if c.problem is problem]


def _draw(problem: _Problem, rank: int, beam: _Beam, k: int, params: BeamParams) -> Draw:
    sample = (problem.round * 10_000 + rank) * 10_000 + k
    return Draw(
        row=beam.row,
        key=stream_key(params.seed, problem.asked.prompt_id, sample),
        written=len(beam.ids),
        left=min(_room(problem, params), params.max_new_tokens - len(beam.ids)),
        tail=beam.tail,
        fresh=k > 0,
    )


def _candidates(problem: _Problem, drawn: Sequence[tuple[int, _Beam, Piece]]) -> list[_Candidate]:
    """The different continuations that no limit cut; every one becomes a node of the tree."""
    seen: dict[tuple[int, ...], Node] = {}
    candidates = []
    for number, beam, piece in drawn:
        ids = beam.ids + piece.ids
        if ids in seen:
            seen[ids].merged += 1
            continue
        nodes = problem.found.nodes
        node = Node(len(nodes), beam.node, problem.round + 1, piece.text, len(piece.ids), float("nan"), "pruned")
        nodes.append(node)
        seen[ids] = node
        if piece.stop_reason is StopReason.LENGTH:
            node.state = "truncated"
            cut = Response(ids, beam.log_prob + piece.log_prob, StopReason.LENGTH, node=node.id)
            problem.found.pool.append(cut)
        else:
            candidates.append(_Candidate(problem, beam, number, piece, node))
    return candidates


def _scored(candidates: Sequence[_Candidate], scoring: Scoring) -> list[_Candidate]:
    """The candidates, their values on their nodes; a problem with a value that is none is given up."""
    if not candidates:
        return []
    readings = [Reading(c.beam.row, c.piece.ids, c.piece.stop_reason is StopReason.STOP) for c in candidates]
    values, read = scoring.score(readings)
    for candidate, value, cost in zip(candidates, values.tolist(), read, strict=True):
        candidate.node.value = value
        candidate.problem.found.tokens_scored += cost
        if np.isnan(value):
            candidate.problem.found.error = "the scorer returned NaN"
    return list(candidates)


def _kept(problem: _Problem, scored: Sequence[_Candidate], params: BeamParams) -> list[tuple[int, _Candidate]]:
    """The candidates of a problem that go on, with their numbers among the scored; finished ones go to the pool."""
    if problem.found.error is not None:
        return []
    mine = [(k, c) for k, c in enumerate(scored) if c.problem is problem]
    best = sorted(mine, key=lambda pair: -pair[1].node.value)[: params.width - len(problem.found.finished)]
    going = []
    for k, candidate in best:
        piece, node, beam = candidate.piece, candidate.node, candidate.beam
        if piece.stop_reason is StopReason.STOP:
            node.state = "finished"
            ids, log_prob = beam.ids + piece.ids, beam.log_prob + piece.log_prob
            problem.found.pool.append(Response(ids, log_prob, StopReason.STOP, node.value, node.id))
        else:
            node.state = "kept"
            going.append((k, candidate))
    return going


def _grown(candidate: _Candidate, row: int) -> _Beam:
    beam, piece = candidate.beam, candidate.piece
    tail = (beam.tail + piece.text)[-_TAIL:]
    return _Beam(row, beam.ids + piece.ids, beam.log_prob + piece.log_prob, tail, candidate.node.id)


def _choose(problem: _Problem, params: BeamParams, answer_of: AnswerOf | None) -> None:
    """The response to answer with; those of a problem that was given up are not looked at."""
    found = problem.found
    if found.error is not None:
        return
    if params.choose == "vote" and answer_of is not None:
        answers = [answer_of(problem.asked.prompt_id, response) for response in found.finished]
        best = by_weighted_vote([response.value for response in found.finished], answers)
    else:
        best = by_value([response.value for response in found.finished])
    found.chosen = None if best is None else found.finished[best]
