from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.grading.notation.numbers import equal_numbers, read_number

WORTH = {
    "18": "18",
    " -18. ": "-18",
    "−7": "-7",
    "+3": "3",
    "1,234,567": "1234567",
    "1{,}234": "1234",
    "10,\\!080": "10080",
    "11,\\! 111,\\! 111,\\! 100": "11111111100",
    "12\\,345": "12345",
    "$1,234.50": "1234.5",
    "\\$18.90": "18.9",
    "-$5": "-5",
    "$-5": "-5",
    "$\\$32,\\!348$": "32348",
    ".0000672": "0.0000672",
    "3.": "3",
    "3/4": "3/4",
    "-3/4": "-3/4",
    "\\frac{3}{4}": "3/4",
    "\\dfrac34": "3/4",
    "-\\tfrac{3}{4}": "-3/4",
    "\\frac{-3}{4}": "-3/4",
    "\\frac{12}{5,\\!525}": "12/5525",
    "2 1/2": "5/2",
    "137 \\frac{1}{2}": "275/2",
    "-1\\frac45": "-9/5",
    "½": "1/2",
    "1.5 \\times 10^6": "1500000",
    "1.5e-3": "0.0015",
    "2*10^3": "2000",
    "0.\\overline{72}": "72/99",
    "0.1\\overline{6}": "1/6",
    "90^\\circ": "90",
    "90°": "90",
    "5 cm": "5",
    "15\\mbox{ cm}^2": "15",
    "864 \\mbox{ inches}^2": "864",
    "\\frac{270}7\\text{ degrees}": "270/7",
    "18 eggs per day": "18",
    "x = 5": "5",
    "x=-\\frac{1}{2}": "-1/2",
    "f(2) = 7": "7",
    "**42**": "42",
    "१७": "17",
}


@pytest.mark.parametrize("written", WORTH)
def test_the_worth_of_a_number(written: str) -> None:
    found = read_number(written)
    assert found is not None
    assert found.value == Fraction(WORTH[written])


@pytest.mark.parametrize(
    "written",
    [
        "", "-", "x", "5x", "5 x", "8\\pi", "8 pi", "\\sqrt{4}", "2^{10}", "1/0", "\\frac{1}{0}", "1,2", "1, 2",
        "10,11,12", "(5)(6)", "3 and 4", "5 or 6", "3:4", "1e999999999", "1.5 \\times 10^{-99999}", "x = 5 = y",
        "2x = 5", "1 - 2",
        "\\frac{1}{2}\\frac{1}{2}", "5 mod 7", "4_6", "1 2", "--5", "9" * 400,
    ],
)  # fmt: skip
def test_anything_else_is_no_number(written: str) -> None:
    assert read_number(written) is None


EQUAL = [
    ("0.5", "\\frac{1}{2}"),
    ("18", "$18.00"),
    ("20\\%", "20"),
    ("20\\%", "0.2"),
    ("20", "20%"),
    ("0.2", "20\\%"),
    ("20\\%", "20 percent"),
    ("3000000", "3 million"),
    ("3", "3 million"),
    ("60", "5 dozen"),
    ("5 dollars", "$5"),
    ("5 cm", "5"),
    ("5", "5 apples"),
    ("5\\text{ apples}", "5 pears"),
]
DIFFERENT = [
    ("18", "-18"),
    ("20", "0.2"),
    ("20", "2000"),
    ("20\\%", "2000"),
    ("20\\%", "0.2\\%"),
    ("20\\%", "0.002"),
    ("0.2", "0.002"),
    ("\\frac{1}{3}", "0.333333"),
    ("100", "100.01"),
    ("3", "3000000"),
    ("5 dollars", "5 cents"),
    ("5 hours", "5 minutes"),
    ("\\$5", "5 cents"),
    ("75\\%", "75^\\circ"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold: str, answer: str) -> None:
    assert equal_numbers(read_number(gold), read_number(answer))


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    assert not equal_numbers(read_number(gold), read_number(answer))
    assert not equal_numbers(read_number(answer), read_number(gold))


fractions = st.fractions(max_denominator=10**6)


@given(fractions)
def test_a_fraction_is_read_back(value: Fraction) -> None:
    sign = "-" if value < 0 else ""
    found = read_number(f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}")
    assert found is not None
    assert found.value == value


@given(st.integers(-(10**40), 10**40), st.integers(0, 30))
def test_a_decimal_is_read_back(digits: int, places: int) -> None:
    whole, part = divmod(abs(digits), 10**places)
    written = f"{'-' if digits < 0 else ''}{whole:,}" + (f".{part:0{places}d}" if places else "")
    found = read_number(written)
    assert found is not None
    assert found.value == Fraction(digits, 10**places)


@given(fractions, fractions)
def test_only_equal_values_are_equal(a: Fraction, b: Fraction) -> None:
    left, right = (read_number(str(v)) for v in (a, b))
    assert left is not None
    assert right is not None
    assert equal_numbers(left, right) == (a == b) == equal_numbers(right, left)


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    found = read_number(text)
    assert found is None or any(c.isdigit() or c in "½¼¾⅓⅔" for c in text)


@given(st.text(alphabet="0123456789.,-+/%$ \\{}fracexovlin^()=", max_size=60))
def test_what_is_read_equals_itself(text: str) -> None:
    found = read_number(text)
    assert found is None or equal_numbers(found, found)
