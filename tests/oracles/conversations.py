"""Conversations as slowly and plainly as they can be had: one at a time, no cache, everything read again each time."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles.beam import next_distribution, value
from stepcredit.engines.noise import stream_key, uniform


def slow_conversation(
    policy: Any,
    value_model: Any,
    tokenizer: Any,
    problem: Any,
    sample: int,
    environment: Any,
    *,
    end: int,
    end_ids: set[int],
    max_turns: int,
    max_new_tokens: int,
    replies: int = 1,
    search: str = "best-of",
    seed: int = 0,
    max_length: int = 10_000,
) -> dict[str, Any]:
    """One conversation: ids, which of them are actions, their log-probabilities, and what it came to and cost."""
    scores = replies > 1 and search == "best-of"
    out: dict[str, Any] = {"rewards": [], "values": [], "replies": [], "error": None, "stop": "unknown"}
    text = "".join(f"<{m['role']}>{m['content']}<end>\n" for m in problem.prompt)
    ids = tokenizer(f"{text}<user>{environment.reset(problem).text}<end>\n<assistant>")["input_ids"]
    out |= {"generated": 0, "scored": len(ids) if scores else 0}
    log_prob, mask = [0.0] * len(ids), [False] * len(ids)
    for turn in range(max_turns):
        room = min(max_new_tokens, max_length - len(ids))
        drawn: dict[tuple[int, ...], list[float]] = {}
        in_order: list[tuple[int, ...]] = []
        for k in range(replies):
            key = stream_key(seed, problem.prompt_id, (sample * 10_000 + turn) * 10_000 + k)
            reply, numbers = draw_reply(policy, ids, key, room, end_ids)
            out["generated"] += len(reply)
            in_order.append(tuple(reply))
            drawn[tuple(reply)] = numbers
        finished = [reply for reply in (drawn if scores else in_order) if reply[-1] in end_ids]
        reply = (finished or in_order)[0]
        if finished and scores:
            values = [value(value_model, ids + list(r[:-1])) for r in finished]
            out["scored"] += sum(len(r) - 1 for r in finished)
            reply = finished[int(np.argmax(values))]
            out["values"].append(max(values))
        elif finished and search == "random":
            u = uniform(np.array([stream_key(seed, problem.prompt_id, -1 - sample)]), turn)[0]
            reply = finished[int(u * len(finished))]
        ids, log_prob, mask = ids + list(reply), log_prob + drawn[reply], mask + [True] * len(reply)
        if not finished:
            out["stop"] = "length"
            break
        out["replies"].append(tokenizer.decode(reply[:-1], skip_special_tokens=True))
        try:
            answer = environment.step(out["replies"][-1])
        except RuntimeError as error:
            out["error"] = str(error)
            break
        out["rewards"].append(answer.reward)
        if answer.done:
            out["stop"] = "stop"
            break
        rest = "" if reply[-1] == end else "<end>"
        seen = tokenizer(f"{rest}\n<user>{answer.text}<end>\n<assistant>")["input_ids"]
        if turn == max_turns - 1 or len(ids) + len(seen) + 1 > max_length:
            out["stop"] = "length"
            break
        ids, log_prob, mask = ids + seen, log_prob + [0.0] * len(seen), mask + [False] * len(seen)
        out["scored"] += len(seen) + 1 if scores else 0
    return out | {"ids": ids, "log_prob": log_prob, "mask": mask}


def draw_reply(policy: Any, before: list[int], key: Any, room: int, end_ids: set[int]) -> tuple[list[int], list[float]]:
    """(a reply's ids, their log-probabilities)."""
    reply: list[int] = []
    log_prob: list[float] = []
    while not reply or (reply[-1] not in end_ids and len(reply) < room):
        probabilities = next_distribution(policy, before + reply)
        noise = uniform(np.array([key]), len(reply))[0]
        cumulative = probabilities.cumsum()
        reply.append(int(np.searchsorted(cumulative, noise * cumulative[-1], side="right")))
        log_prob.append(float(np.log(probabilities[reply[-1]])))
    return reply, log_prob
