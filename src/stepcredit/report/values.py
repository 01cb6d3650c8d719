"""Responses coloured by the value function: changes from step to step, marks, colours, pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stepcredit.errors import InputError
from stepcredit.results.fields import Row, list_of, optional_number, row_of, text_of

VERDICTS = ("right", "wrong", "undecided")
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
    right: bool | None
    largest_drop: bool
    first_wrong: bool

    @property
    def colour(self) -> str:
        """The background that shows V."""
        return value_colour(self.value)


@dataclass(frozen=True)
class Response:
    """A response with its verdict and the value of every step."""

    task: str
    prompt: str
    answer: str
    extracted: str | None
    verdict: str
    value_initial: float | None
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


def check_responses(rows: Iterable[object], source: str = "credit.json") -> list[Response]:
    """The responses of `credit.json` with changes and marks computed.

    The largest drop is the first of the largest falls of V from one state to the next, the prompt's own
    value before step 1; a fall that two decimals cannot show is none. The first wrong step is the first one
    whose `right` is false.

    Raises:
        InputError: a row or one of its steps is malformed.
    """
    return [_response(row, f"{source}, row {index}") for index, row in enumerate(rows, start=1)]


def pair_up(responses: Sequence[Response]) -> tuple[list[tuple[Response, Response]], list[Response]]:
    """Pairs of one right and one wrong response to the same prompt, and the responses left over.

    Without any such prompt the first right and the first wrong response are the only pair.
    """
    prompts: dict[tuple[str, str], dict[str, list[Response]]] = {}
    for response in responses:
        verdicts = prompts.setdefault((response.task, response.prompt), {})
        verdicts.setdefault(response.verdict, []).append(response)
    pairs = [pair for verdicts in prompts.values() for pair in _pairs(verdicts)]
    if not pairs:
        everything: dict[str, list[Response]] = {}
        for response in responses:
            everything.setdefault(response.verdict, []).append(response)
        pairs = _pairs(everything)[:1]
    shown = {id(response) for pair in pairs for response in pair}
    return pairs, [response for response in responses if id(response) not in shown]


def _pairs(verdicts: dict[str, list[Response]]) -> list[tuple[Response, Response]]:
    right, wrong = verdicts.get("right", []), verdicts.get("wrong", [])
    return list(zip(right, wrong, strict=False))


def _response(payload: object, where: str) -> Response:
    row = row_of(payload, where)
    verdict = text_of(row, "verdict", where)
    if verdict not in VERDICTS:
        raise InputError(f"field 'verdict' must be right, wrong or undecided, found {verdict!r:.60}", where)
    initial = optional_number(row, "value_initial", where)
    steps = [row_of(step, f"{where}, step {i}") for i, step in enumerate(list_of(row, "steps", where), 1)]
    extracted = _shown(row, "extracted", where)
    return Response(
        task=text_of(row, "task", where, ""),
        prompt=text_of(row, "prompt", where),
        answer=_shown(row, "answer", where) or "",
        extracted=extracted,
        verdict=verdict,
        value_initial=initial,
        steps=tuple(_steps(steps, initial, where)),
    )


def _shown(row: Row, key: str, where: str) -> str | None:
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise InputError(f"field {key!r} must be a text, a number or null, found {value!r:.60}", where)


def _steps(rows: Sequence[Row], initial: float | None, where: str) -> list[Step]:
    values: list[float | None] = []
    rights: list[bool | None] = []
    for index, row in enumerate(rows, start=1):
        values.append(optional_number(row, "value", f"{where}, step {index}"))
        right = row.get("right")
        if right is not None and not isinstance(right, bool):
            what = f"field 'right' must be true, false or null, found {right!r:.60}"
            raise InputError(what, f"{where}, step {index}")
        rights.append(right)
    before = [initial, *values]
    changes = [
        None if value is None or last is None else value - last for last, value in zip(before, values, strict=False)
    ]
    falls = [-change if change is not None else 0.0 for change in changes]
    deepest = max(falls, default=0.0)
    dropped = falls.index(deepest) if deepest >= SMALLEST_DROP else None
    wrong = rights.index(False) if False in rights else None
    return [
        Step(
            text=text_of(row, "text", f"{where}, step {index + 1}"),
            value=values[index],
            change=changes[index],
            right=rights[index],
            largest_drop=index == dropped,
            first_wrong=index == wrong,
        )
        for index, row in enumerate(rows)
    ]
