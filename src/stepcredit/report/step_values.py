"""Responses coloured by the value function: changes from step to step, marks, colours, pairs."""

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
    """One step of a response: V after it, the change from the state before it, and its marks."""

    text: str
    value: float | None
    change: float | None
    largest_drop: bool
    first_wrong: bool


@dataclass(frozen=True)
class Response:
    """A response with the changes of V and its marks."""

    about: CreditExample
    prompt: str
    steps: tuple[Step, ...]

    @property
    def summary(self) -> str:
        """Where the largest drop and the first wrong step are, in one sentence."""
        drop = next((i for i, step in enumerate(self.steps, 1) if step.largest_drop), None)
        wrong = next((i for i, step in enumerate(self.steps, 1) if step.first_wrong), None)
        if drop is None and wrong is None:
            return "V never drops."
        if drop is not None and drop == wrong:
            return f"The largest drop is at the first wrong step, step {wrong}."
        dropped = "V never drops" if drop is None else f"The largest drop is at step {drop}"
        return f"{dropped}." if wrong is None else f"{dropped}; the first wrong step is step {wrong}."


def value_colour(value: float | None) -> str:
    """A CSS colour from orange (V = 0) over none (V = 0.5) to blue (V = 1).

    The strength is opacity, so that the text stays legible on light and on dark pages. V outside [0, 1]
    takes the colour of the nearer end; no V has no colour.
    """
    if value is None:
        return "transparent"
    distance = 2 * min(max(value, 0.0), 1.0) - 1
    red, green, blue = LOW_RGB if distance < 0 else HIGH_RGB
    return f"rgba({red}, {green}, {blue}, {STRONGEST * abs(distance):.3f})"


def marked(example: CreditExample) -> Response:
    """A response of `credit.json` with changes and marks computed.

    The largest drop is the first of the largest falls of V from one state to the next, the prompt's own
    value before step 1; a fall that two decimals cannot show is none. The first wrong step is the first one
    whose `right` is false.
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
    """A prompt as text; of messages, what each says."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{m.get('role')}: {m.get('content')}" if isinstance(m, dict) else str(m) for m in prompt)


def pair_up(responses: Sequence[Response]) -> tuple[list[tuple[Response, Response]], list[Response]]:
    """Pairs of one right and one wrong response to the same prompt, and the responses left over.

    Without any such prompt the first right and the first wrong response are the only pair.
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
