"""Types and limits of settings, by hand and by property."""

from dataclasses import dataclass, field
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.errors import InputError, one_line, printable, quoted
from stepcredit.settings import Limits, check_settings


@dataclass
class Config:
    """One field of each kind."""

    count: Annotated[int, Limits(at_least=1)] = 1
    rate: Annotated[float, Limits(above=0, at_most=1)] = 0.1
    name: Annotated[str, Limits(not_empty=True)] = "a"
    kind: str = field(default="x", metadata={"choices": ["x", "y"]})
    flag: bool = False
    seeds: Annotated[list[int], Limits(at_least=0, not_empty=True)] = field(default_factory=lambda: [0])
    limit: Annotated[int | None, Limits(at_least=1)] = None
    either: list[str] | str | None = None
    scale: Annotated[float, Limits(infinite=True)] = 1.0
    decay: Annotated[float, Limits(at_least=0, below=1)] = 0.9

    def __post_init__(self):
        check_settings(self)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"count": 0}, "count: 0 must be 1 or more"),
        ({"count": 1.5}, "count: must be a whole number, not 1.5"),
        ({"count": True}, "count: must be a whole number, not True"),
        ({"count": "2"}, "count: must be a whole number, not '2'"),
        ({"count": None}, "count: must be given"),
        ({"rate": 0}, "rate: 0 must be above 0"),
        ({"rate": 1.01}, "rate: 1.01 must be 1 or less"),
        ({"rate": float("nan")}, "rate: nan must be a finite number"),
        ({"rate": float("inf")}, "rate: inf must be a finite number"),
        ({"rate": "fast"}, "rate: must be a number, not 'fast'"),
        ({"name": ""}, "name: must not be empty"),
        ({"name": " "}, "name: must not be empty"),
        ({"name": "a\0b"}, "name: 'a\\x00b' holds a NUL"),
        ({"name": 3}, "name: must be text, not 3"),
        ({"kind": "z"}, "kind: 'z' is none of x, y"),
        ({"flag": 1}, "flag: must be true or false, not 1"),
        ({"seeds": []}, "seeds: must not be empty"),
        ({"seeds": 3}, "seeds: must be a list (a whole number), not 3"),
        ({"seeds": [0, -1]}, "seeds: -1 must be 0 or more"),
        ({"seeds": ["x"]}, "seeds: must be a whole number, not 'x'"),
        ({"limit": 0}, "limit: 0 must be 1 or more"),
        ({"decay": 1}, "decay: 1 must be below 1"),
        ({"decay": -0.1}, "decay: -0.1 must be 0 or more"),
        ({"decay": 0, "count": 1}, None),
        ({"scale": float("nan")}, None),
        ({"scale": float("inf")}, None),
        ({"limit": None, "rate": 1}, None),
        ({"either": "a"}, None),
        ({"either": ["a", "b"]}, None),
    ],
)
def test_what_is_refused(settings, says):
    if says is None:
        Config(**settings)
        return
    with pytest.raises(InputError) as caught:
        Config(**settings)
    assert str(caught.value) == says


def test_limits_of_fields_that_somebody_else_declares():
    @dataclass
    class Theirs:
        steps: int = -1

    check_settings(Theirs(), {"steps": Limits(at_least=-1)})
    with pytest.raises(InputError, match=r"steps: -1 must be 0 or more"):
        check_settings(Theirs(), {"steps": Limits(at_least=0)})


@given(st.text(max_size=300))
def test_a_line_is_printable_and_short(text):
    line = one_line(f"{quoted(text)} {text}")
    assert line.isprintable()
    assert len(line) <= 600
    assert not set(line) & set("\u202a\u202e\u2066\u2069\u200f")


def test_printable_text_is_as_it_was_and_huge_numbers_have_words():
    assert printable("naïve ✓ 数") == "naïve ✓ 数"
    assert printable("\x1b[31m") == "\\x1b[31m"
    assert quoted(10**5000) == "a number of thousands of digits"
