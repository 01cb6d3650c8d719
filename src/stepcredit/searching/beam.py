"""Step beam search: extend each beam by one-step continuations and keep those of highest value.

A continuation that reaches the length limit or the budget is neither an answer nor a beam, since V is not trained at
the middle of a step.

Source: OREO (arXiv 2412.16145), section on test-time search; its published code draws `width` candidates
only in the first round, keeps identical beams and counts cut responses as answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from typing import NamedTuple

import numpy as np

from stepcredit.engines.decoding import Continuation, ContinuationRequest
from stepcredit.engines.engine import Request, check_prompts
from stepcredit.engines.noise import stream_key
from stepcredit.engines.stepping import Stepper
from stepcredit.episodes.episode import StopReason
from stepcredit.searching.responses import AnswerOf, Node, Response, SearchResult
from stepcredit.searching.scorers import Reading, Scorer, Scoring
from stepcredit.searching.selection import by_value, by_weighted_vote
from stepcredit.searching.spec import SearchSpec

_TAIL = 64
"""Number of trailing characters stored per beam, for stop strings that span two steps."""


@dataclass(frozen=True)
class _Beam:
    """Partial response: its prompt, search result and node, and its ids, log μ and last characters so far.

    Beams of one prompt are adjacent in a list of beams.
    """

    prompt: int
    request: Request
    result: SearchResult
    node: Node
    ids: tuple[int, ...] = ()
    log_prob: tuple[float, ...] = ()
    tail: str = ""

    def ended(self, reason: StopReason) -> Response:
        """Converts the beam to a response."""
        return Response(self.ids, self.log_prob, reason, self.node.value, self.node.id)


class _Candidate(NamedTuple):
    """Continuation to be scored: its index among the sampled ones, the scorer's input, and the resulting beam."""

    draw: int
    reading: Reading
    beam: _Beam


def beam_search(
    requests: Sequence[Request],
    stepper: Stepper,
    scorer: Scorer,
    spec: SearchSpec,
    answer_of: AnswerOf | None = None,
    max_length: int | None = None,
) -> list[SearchResult]:
    """Runs a step beam search for each prompt, all in one batch; the results do not depend on the batch.

    1. Prefill policy and scorer with the prompts. Each prompt is the first beam of its search.

    Repeat until no beam is left:

    2. Plan `continuations` of each beam (of the prompt, `width` times as many, so that the first round has as many
       candidates as later ones). A search ends if its budget leaves no token for each of them.
    3. Sample the continuations.
    4. Merge identical ones, and move truncated ones to the pool.
    5. Score the others. If a score is NaN, the search of this prompt ends with an error.
    6. Keep the `width` candidates of highest value per prompt. Finished ones move to the pool and permanently reduce
       the width.

    Finally:

    7. Choose the response of highest value from each pool, or the winner of a value-weighted vote.

    Args:
        requests: prompts and the ids of their noise.
        stepper, scorer: sample the steps, and score the candidates.
        spec: width, continuations, length limit, budget, final choice and seed.
        answer_of: extracts the answers for `choose="vote"`.
        max_length: tokens that the policy reads, prompt and response together; None: any number.

    Raises:
        InputError: a prompt leaves no room for a response.
    """
    check_prompts(requests, max_length)
    prompts = [request.prompt_ids for request in requests]
    scoring, values, read = scorer.start(prompts)  # 1.
    stepper.start(prompts)
    beams = []
    for prompt, (request, value, tokens) in enumerate(zip(requests, values.tolist(), read, strict=True)):
        root = Node(0, None, 0, "", 0, value, "root")
        beams.append(_Beam(prompt, request, SearchResult(tokens_scored=tokens, nodes=[root]), root))
    results = [beam.result for beam in beams]
    for past_rounds in count():
        planned = _plan(beams, spec, past_rounds, max_length)  # 2.
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


def _plan(
    beams: Sequence[_Beam], spec: SearchSpec, past_rounds: int, max_length: int | None
) -> list[tuple[_Beam, ContinuationRequest]]:
    """Returns the requests of a round, each with its beam; sampling and scoring all of them stays within the budget."""
    each = spec.steps * (1 if past_rounds else spec.width)
    planned = []
    for _, group in groupby(enumerate(beams), lambda numbered: numbered[1].prompt):
        rows = list(group)
        request, result = rows[0][1].request, rows[0][1].result
        most = spec.params.max_new_tokens
        if max_length is not None:
            most = min(most, max_length - len(request.prompt_ids))
        room = most
        if spec.budget is not None:
            left = spec.budget - result.tokens_generated - result.tokens_scored
            room = left // (2 * len(rows) * each)
        for rank, (row, beam) in enumerate(rows if room > 0 else []):
            limit = min(room, most - len(beam.ids))
            for k in range(each):
                sample = (past_rounds * 10_000 + rank) * 10_000 + k
                key = stream_key(spec.params.seed, request.prompt_id, sample)
                planned.append((beam, ContinuationRequest(row, key, len(beam.ids), limit, beam.tail, fresh=k > 0)))
    return planned


def _candidates(
    planned: Sequence[tuple[_Beam, ContinuationRequest]], pieces: Sequence[Continuation]
) -> list[_Candidate]:
    """Returns the distinct, untruncated continuations; truncated ones go to the pool. Adds a node for each."""
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
    """Score the candidates and set the values of their nodes."""
    if not candidates:
        return
    values, read = scoring.score([candidate.reading for candidate in candidates])
    for candidate, value, tokens in zip(candidates, values.tolist(), read, strict=True):
        candidate.beam.node.value = value
        candidate.beam.result.tokens_scored += tokens
        if np.isnan(value):
            candidate.beam.result.error = "the scorer returned NaN"


def _keep(candidates: Sequence[_Candidate], spec: SearchSpec) -> list[int]:
    """Returns the indices of the candidates that become beams, prompt by prompt, in descending order of value."""
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
    """Set the final response; None if the search ended with an error."""
    if result.error is not None:
        return
    finished = result.finished
    values = [response.value for response in finished]
    if answer_of is None:
        best = by_value(values)
    else:
        best = by_weighted_vote(values, [answer_of(request.prompt_id, response) for response in finished])
    result.chosen = None if best is None else finished[best]
