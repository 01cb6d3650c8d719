"""The credit page: every response of `credit.jsonl` with its steps and tokens coloured by the change of V.

One self-contained HTML file. Its script draws what it reads from the page's own JSON; both are inline, and the page's
policy allows no other script and no network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from stepcredit.errors import InputError
from stepcredit.metrics.ranking import auc_within
from stepcredit.report.formatting import legible
from stepcredit.report.html import template, write_page
from stepcredit.results.credit_lines import (
    CREDIT_FILE,
    CreditEpisode,
    CreditLine,
    CreditObservation,
    CreditRun,
    CreditStep,
    CreditToken,
    Values,
    read_credit,
)

DECIMALS = 4
FULL_COLOUR = 0.98
"""The share of changes that are at most the change of full colour."""
LEAST_FULL_COLOUR = {"step": 0.05, "token": 0.01}
"""Least change of full colour, as a share of the range of rewards: a V that hardly moves has hardly any colour."""


def write_credit_page(folder: Path, out: Path | None = None) -> Path:
    """Writes the credit page of the `credit.jsonl` in a folder and returns its path.

    Args:
        folder: the folder.
        out: the page, written atomically; by default `credit.html` in the folder.

    Raises:
        InputError: `credit.jsonl` is missing, malformed or empty, or `out` is a folder.
    """
    out = folder / "credit.html" if out is None else out
    return write_page(out, lambda: credit_page(read_credit(folder / CREDIT_FILE)))


def credit_page(lines: Iterable[CreditLine]) -> str:
    """Renders the page of the lines of `credit.jsonl`; deterministic.

    Raises:
        InputError: there is no episode.
    """
    data = page_data(lines)
    script = _part("credit_page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template("credit/credit_page.html.j2", {}).render(
        count=len(data["episodes"]),
        style=Markup(_part("credit_page.css")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        data=Markup(_inline(data)),
    )


def page_data(lines: Iterable[CreditLine]) -> dict[str, Any]:
    """Returns the data of the page: `about`, `sources`, `scale` and `episodes`.

    `about` has how often V ranks a right response above a wrong one, per value model. An episode has its texts, numbers
    and `parts`: observations and steps in the order of the text. Lists of a step's tokens are columns: T texts, v and c
    V and its change per value model, G and K log-ratios and KL.

    Raises:
        InputError: the first line is not a run, or there is no episode.
    """
    rows = iter(lines)
    run = next(rows, None)
    if not isinstance(run, CreditRun):
        raise InputError("has no lines; run `stepcredit credit` again", CREDIT_FILE)
    sources: dict[str, int] = {}
    episodes: list[dict[str, Any]] = []
    for row in rows:
        match row:
            case CreditEpisode():
                episodes.append(_episode(row, sources.setdefault(row.source, len(sources))))
            case CreditObservation():
                episodes[-1]["parts"].append({"o": legible(row.role), "t": legible(row.text)})
            case CreditStep():
                episodes[-1]["parts"].append(_step(row, len(run.value_models)))
            case CreditToken():
                _add_token(episodes[-1]["parts"][-1], row)
    if not episodes:
        raise InputError("has no episode; run `stepcredit credit` again", CREDIT_FILE)
    steps = [part for episode in episodes for part in episode["parts"] if "T" in part]
    rewards = [episode["reward"] for episode in episodes if episode["reward"] is not None]
    span = max(rewards) - min(rewards) if rewards else 0.0
    return {
        "about": {
            "models": [*map(legible, run.value_models)],
            "levels": run.levels,
            "ranking": [None if level == "response" else _ranking(episodes, k) for k, level in enumerate(run.levels)],
            "policy": _legible(run.policy),
            "reference": _legible(run.ref_model),
            "episodes": [*map(legible, run.episodes)],
            "total": run.total,
        },
        "sources": [*map(legible, sources)],
        "scale": {
            "step": _scale(chain.from_iterable(step["C"] for step in steps), span * LEAST_FULL_COLOUR["step"]),
            "token": _scale(
                (x for step in steps for column in step["c"] for x in column), span * LEAST_FULL_COLOUR["token"]
            ),
        },
        "episodes": episodes,
    }


def _episode(row: CreditEpisode, source: int) -> dict[str, Any]:
    messages = [{"role": "", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
    return {
        "id": legible(row.prompt_id),
        "sample": row.sample,
        "source": source,
        "verdict": row.verdict,
        "reward": row.reward,
        "prompt": [[legible(str(m.get("role", ""))), legible(str(m.get("content") or ""))] for m in messages],
        "extracted": _legible(row.extracted),
        "answer": _legible(row.answer),
        "V": _rounded(row.value),
        "parts": [],
    }


def _step(row: CreditStep, models: int) -> dict[str, Any]:
    flags = {"end": row.end, "false": row.false_equation}
    return {
        "n": row.step,
        "turn": row.turn,
        "V": _rounded(row.value),
        "C": _rounded(row.change),
        "g": row.log_ratio,
        "k": row.kl,
        "w": row.reward,
        **{name: True for name, flag in flags.items() if flag},
        "T": [],
        "v": [[] for _ in range(models)],
        "c": [[] for _ in range(models)],
        "G": [],
        "K": [],
    }


def _add_token(step: dict[str, Any], row: CreditToken) -> None:
    step["T"].append(legible(row.text))
    for column, value in zip(step["v"], _rounded(row.value), strict=True):
        column.append(value)
    for column, change in zip(step["c"], _rounded(row.change), strict=True):
        column.append(change)
    if row.log_ratio is not None:
        step["G"].append(row.log_ratio)
        step["K"].append(row.kl)


def _legible(text: str | float | None) -> str | None:
    return None if text is None else legible(str(text))


def _rounded(values: Values) -> Values:
    return [None if value is None else round(value, DECIMALS) for value in values]


def _scale(changes: Iterable[float | None], least: float) -> float:
    """Returns the change of full colour: nearly the largest of these, and no less than `least`."""
    sizes = [abs(x) for x in changes if x is not None]
    return max(round(float(np.quantile(sizes, FULL_COLOUR)), DECIMALS), least, 10**-DECIMALS) if sizes else 1.0


def _ranking(episodes: Sequence[dict[str, Any]], model: int) -> dict[str, Any] | None:
    """Returns in what share of pairs a right response has a higher V than a wrong one to the same prompt.

    V is that of the last state of a response that has one. None without such pairs. The interval is over prompts.
    """
    by_prompt: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for e in episodes:
        values = [v for part in e["parts"] if "T" in part for v in part["v"][model] if v is not None]
        if values and e["verdict"] in ("right", "wrong"):
            by_prompt[json.dumps([e["source"], e["id"], e["prompt"]])][e["verdict"] == "right"].append(values[-1])
    mixed = [(wrong, right) for wrong, right in by_prompt.values() if wrong and right]
    if not mixed:
        return None
    scores = [v for both in mixed for part in both for v in part]
    is_right = [k == 1 for both in mixed for k, part in enumerate(both) for _ in part]
    prompts = [k for k, both in enumerate(mixed) for part in both for _ in part]
    found = auc_within(scores, is_right, prompts)
    return {"share": round(found.estimate, 3), "low": round(found.low, 3), "high": round(found.high, 3),
            "pairs": found.pairs, "prompts": len(mixed)}  # fmt: skip


def _inline(data: Any) -> str:
    """Returns JSON that can stand in a script element: no `<` ends it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _part(name: str) -> str:
    return (files("stepcredit.report.credit") / name).read_text(encoding="utf-8").strip()
