"""Step beam: of several continuations of one step each, the most valued go on.

One that meets a limit, on length or on the budget, is no answer and no beam: V is not read where no step ends.

Source: OREO (arXiv 2412.16145), section on test-time search; its published code draws `width` candidates
only in the first round, keeps identical beams and counts cut responses as answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from typing import NamedTuple

import numpy as np

from stepcredit.engines.decoding import Draw, Piece
from stepcredit.engines.engine import Request
from stepcredit.engines.noise import stream_key
from stepcredit.engines.stepping import Stepper
from stepcredit.episodes.episode import StopReason
from stepcredit.searching.responses import AnswerOf, Node, Response, SearchResult
from stepcredit.searching.scorers import Reading, Scorer, Scoring
from stepcredit.searching.selection import by_value, by_weighted_vote
from stepcredit.searching.spec import SearchSpec

_TAIL = 64
"""Characters of a response that are kept for stop strings that begin in one step and end in another."""


@dataclass(frozen=True)
class _Beam:
    """A response in the making: its prompt, the result of the search, its node, ids, log μ and last characters so far.

    Beams of one prompt follow each other.
    """

    prompt: int
    request: Request
    result: SearchResult
    node: Node
    ids: tuple[int, ...] = ()
    log_prob: tuple[float, ...] = ()
    tail: str = ""

    def ended(self, reason: StopReason) -> Response:
        """As a response."""
        return Response(self.ids, self.log_prob, reason, self.node.value, self.node.id)


class _Candidate(NamedTuple):
    """A continuation: its number among the draws, what is to be scored, and the beam that it makes."""

    draw: int
    reading: Reading
    beam: _Beam


def beam_search(
    requests: Sequence[Request],
    stepper: Stepper,
    scorer: Scorer,
    spec: SearchSpec,
    answer_of: AnswerOf | None = None,
) -> list[SearchResult]:
    """A step beam for each prompt, all in one batch; none of them changes the result of another.

    1. Policy and scorer read the prompts. Each is the first beam of its search.

    Round after round, until no beam is left:

    2. Plan `continuations` of each beam, and of the bare prompt `width` times as many, so that the first round has as
       many candidates as the others; a prompt whose budget leaves no token for each of them is done.
    3. Draw them.
    4. Count identical ones once, and put those that met a limit aside.
    5. Score the others; a prompt for which the scorer says NaN is given up, with an error.
    6. Keep the `width` most valued of each prompt. Of these the finished ones leave for the pool, and their places are
       not filled again.

    In the end:

    7. Choose the most valued response of each pool, or the winner of a vote weighed by values.

    Args:
        requests: the prompts, and the ids that key their noise.
        stepper: draws the steps.
        scorer: says which are best.
        spec: width, continuations, length limit, budget, last choice and seed.
        answer_of: for `choose="vote"`.
    """
    prompts = [request.prompt_ids for request in requests]
    scoring, values, read = scorer.start(prompts)  # 1.
    stepper.start(prompts)
    beams = []
    for prompt, (request, value, tokens) in enumerate(zip(requests, values.tolist(), read, strict=True)):
        root = Node(0, None, 0, "", 0, value, "root")
        beams.append(_Beam(prompt, request, SearchResult(tokens_scored=tokens, nodes=[root]), root))
    results = [beam.result for beam in beams]
    for past_rounds in count():
        planned = _plan(beams, spec, past_rounds)  # 2.
        if not planned:
            break
        pieces = stepper.draw([draw for _, draw in planned])  # 3.
        candidates = _candidates(planned, pieces)  # 4.
        _score(candidates, scoring)  # 5.
        kept = _keep(candidates, spec)  # 6.
        beams = [candidates[k].beam for k in kept]
        if kept:
            stepper.keep([candidates[k].draw for k in kept])
            scoring.keep(kept)
    for request, result in zip(requests, results, strict=True):
        _choose(request, result, answer_of if spec.choose == "vote" else None)  # 7.
    return results


def _plan(beams: Sequence[_Beam], spec: SearchSpec, past_rounds: int) -> list[tuple[_Beam, Draw]]:
    """The draws of a round, each with its beam; drawing and scoring all of them keeps the budget."""
    each = spec.steps * (1 if past_rounds else spec.width)
    planned = []
    for _, group in groupby(enumerate(beams), lambda numbered: numbered[1].prompt):
        rows = list(group)
        request, result = rows[0][1].request, rows[0][1].result
        room = spec.params.max_new_tokens
        if spec.budget is not None:
            left = spec.budget - result.tokens_generated - result.tokens_scored
            room = left // (2 * len(rows) * each)
        for rank, (row, beam) in enumerate(rows if room > 0 else []):
            limit = min(room, spec.params.max_new_tokens - len(beam.ids))
            for k in range(each):
                sample = (past_rounds * 10_000 + rank) * 10_000 + k
                key = stream_key(spec.params.seed, request.prompt_id, sample)
                planned.append((beam, Draw(row, key, len(beam.ids), limit, beam.tail, fresh=k > 0)))
    return planned


def _candidates(planned: Sequence[tuple[_Beam, Draw]], pieces: Sequence[Piece]) -> list[_Candidate]:
    """The different continuations that no limit cut; the cut ones go to the pool. Each is a node of the tree."""
    nodes: dict[tuple[int, tuple[int, ...]], Node] = {}
    candidates = []
    for number, ((beam, draw), piece) in enumerate(zip(planned, pieces, strict=True)):
        result, ids = beam.result, beam.ids + piece.ids
        result.tokens_generated += piece.drawn
        if (beam.prompt, ids) in nodes:
            nodes[beam.prompt, ids].merged += 1
            continue
        parent = beam.node
        node = Node(len(result.nodes), parent.id, parent.round + 1, piece.text, len(piece.ids), float("nan"), "pruned")
        nodes[beam.prompt, ids] = node
        result.nodes.append(node)
        tail = (beam.tail + piece.text)[-_TAIL:]
        grown = replace(beam, node=node, ids=ids, log_prob=beam.log_prob + piece.log_prob, tail=tail)
        if piece.stop_reason is StopReason.LENGTH:
            node.state = "truncated"
            result.pool.append(grown.ended(StopReason.LENGTH))
        else:
            finished = piece.stop_reason is StopReason.STOP
            candidates.append(_Candidate(number, Reading(draw.row, piece.ids, finished), grown))
    return candidates


def _score(candidates: Sequence[_Candidate], scoring: Scoring) -> None:
    """Values onto the nodes of the candidates."""
    if not candidates:
        return
    values, read = scoring.score([candidate.reading for candidate in candidates])
    for candidate, value, tokens in zip(candidates, values.tolist(), read, strict=True):
        candidate.beam.node.value = value
        candidate.beam.result.tokens_scored += tokens
        if np.isnan(value):
            candidate.beam.result.error = "the scorer returned NaN"


def _keep(candidates: Sequence[_Candidate], spec: SearchSpec) -> list[int]:
    """The numbers of the candidates that go on, prompt by prompt, the most valued first."""
    kept = []
    for _, group in groupby(range(len(candidates)), lambda k: candidates[k].beam.prompt):
        numbers = list(group)
        result = candidates[numbers[0]].beam.result
        if result.error is not None:
            continue
        numbers.sort(key=lambda k: -candidates[k].beam.node.value)
        for k in numbers[: spec.width - len(result.finished)]:
            _, reading, beam = candidates[k]
            beam.node.state = "finished" if reading.finished else "kept"
            if reading.finished:
                result.pool.append(beam.ended(StopReason.STOP))
            else:
                kept.append(k)
    return kept


def _choose(request: Request, result: SearchResult, answer_of: AnswerOf | None) -> None:
    """The response to answer with; there is none where the search was given up."""
    if result.error is not None:
        return
    finished = result.finished
    values = [response.value for response in finished]
    if answer_of is None:
        best = by_value(values)
    else:
        best = by_weighted_vote(values, [answer_of(request.prompt_id, response) for response in finished])
    result.chosen = None if best is None else finished[best]
