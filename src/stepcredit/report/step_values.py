"""Responses colored by the value model: changes per step, highlighted steps, colors, pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stepcredit.results.schema import CreditExample

LOW_RGB = (224, 116, 24)  # orange: V = 0
HIGH_RGB = (36, 118, 196)  # blue: V = 1
STRONGEST = 0.55
SMALLEST_DROP = 0.005  # what two decimals can show


@dataclass(frozen=True)
class Step:
    """Step of a response: V after it, the change of V over it, and its flags."""

    text: str
    value: float | None
    change: float | None
    largest_drop: bool
    first_wrong: bool


@dataclass(frozen=True)
class Response:
    """Response with the changes of V and its flagged steps."""

    about: CreditExample
    prompt: str
    steps: tuple[Step, ...]

    @property
    def summary(self) -> str:
        """Sentence on the positions of the largest drop and the first wrong step."""
        drop = next((i for i, step in enumerate(self.steps, 1) if step.largest_drop), None)
        wrong = next((i for i, step in enumerate(self.steps, 1) if step.first_wrong), None)
        if drop is None and wrong is None:
            return "V never drops."
        if drop is not None and drop == wrong:
            return f"The largest drop is at the first wrong step, step {wrong}."
        dropped = "V never drops" if drop is None else f"The largest drop is at step {drop}"
        return f"{dropped}." if wrong is None else f"{dropped}; the first wrong step is step {wrong}."


def value_colour(value: float | None) -> str:
    """Returns a CSS color from orange (V = 0) over transparent (V = 0.5) to blue (V = 1).

    The opacity varies, so that the text stays legible on light and dark pages. V is clipped to [0, 1]; None is
    transparent.
    """
    if value is None:
        return "transparent"
    distance = 2 * min(max(value, 0.0), 1.0) - 1
    red, green, blue = LOW_RGB if distance < 0 else HIGH_RGB
    return f"rgba({red}, {green}, {blue}, {STRONGEST * abs(distance):.3f})"


def marked(example: CreditExample) -> Response:
    """Computes the changes of V and flags the largest drop and the first wrong step of a response.

    The largest drop is the first largest decrease of V from one state to the next, starting from the value of the
    prompt; decreases below two decimals do not count. The first wrong step is the first one whose `right` is false.
    """
    values = [example.value_initial, *(step.value for step in example.steps)]
    changes = [None if last is None or value is None else value - last for last, value in pairwise(values)]
    falls = [-change if change is not None else 0.0 for change in changes]
    deepest = max(falls, default=0.0)
    dropped = falls.index(deepest) if deepest >= SMALLEST_DROP else None
    rights = [step.right for step in example.steps]
    wrong = rights.index(False) if False in rights else None
    steps = (Step(step.text, step.value, changes[k], k == dropped, k == wrong) for k, step in enumerate(example.steps))
    return Response(example, _text(example.prompt), tuple(steps))


def _text(prompt: str | list[Any]) -> str:
    """Returns a prompt as text; chat messages as "role: content"."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{m.get('role')}: {m.get('content')}" if isinstance(m, dict) else str(m) for m in prompt)


def pair_up(responses: Sequence[Response]) -> tuple[list[tuple[Response, Response]], list[Response]]:
    """Returns pairs of a right and a wrong response to the same prompt, and the remaining responses.

    If there is no such prompt, the first right and the first wrong response are the only pair.
    """
    prompts: dict[tuple[str, str], dict[str, list[Response]]] = {}
    for response in responses:
        verdicts = prompts.setdefault((response.about.task, response.prompt), {})
        verdicts.setdefault(response.about.verdict, []).append(response)
    pairs = [pair for verdicts in prompts.values() for pair in _pairs(verdicts)]
    if not pairs:
        everything: dict[str, list[Response]] = {}
        for response in responses:
            everything.setdefault(response.about.verdict, []).append(response)
        pairs = _pairs(everything)[:1]
    shown = {id(response) for pair in pairs for response in pair}
    return pairs, [response for response in responses if id(response) not in shown]


def _pairs(verdicts: dict[str, list[Response]]) -> list[tuple[Response, Response]]:
    right, wrong = verdicts.get("right", []), verdicts.get("wrong", [])
    return list(zip(right, wrong, strict=False))
