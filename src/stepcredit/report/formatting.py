"""Formatting of numbers and texts for tables, pages and terminals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean, stdev

MISSING = "–"
_ILLEGIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Replaces unprintable characters, line breaks included, by a replacement character."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def legible(text: str) -> str:
    """Replaces control characters, lone surrogates and bidirectional controls by a replacement character."""
    return _ILLEGIBLE.sub("\ufffd", text.replace("\r\n", "\n"))


def share(value: float | None) -> str:
    """Formats a share in percent with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f}"


def share_and_error(value: float | None, error: float | None) -> str:
    """Formats a share and its standard error in percent: 93.1 ± 0.6."""
    return f"{share(value)} ± {share(error)}"


def over_seeds(shares: Sequence[float] | None) -> str:
    """Formats the mean over seeds in percent, ± its standard error if there are several."""
    if not shares:
        return MISSING
    error = stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else None
    return share(fmean(shares)) if error is None else share_and_error(fmean(shares), error)


def points(difference: float) -> str:
    """Formats a difference of shares in percentage points, with sign: −0.4."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def decimal(value: float | None) -> str:
    """Formats a number with two decimals and a true minus sign; large ones in scientific notation."""
    if value is None:
        return MISSING
    text = f"{value:.2f}" if abs(value) < 1e6 else f"{value:.0e}"
    return text.replace("-0.00", "0.00").replace("-", "−")


def signed(change: float | None) -> str:
    """Formats a change of V with its sign: −0.31."""
    if change is None:
        return ""
    return decimal(change) if decimal(change).startswith("−") else "+" + decimal(change)


def interval(low: float | None, high: float | None) -> str:
    """Formats an interval as "low to high"."""
    return MISSING if low is None or high is None else f"{decimal(low)} to {decimal(high)}"


def count(value: int | float | None) -> str:
    """Formats a number without decimals: 1,234."""
    return MISSING if value is None else f"{value:,.0f}"


def count_range(counts: tuple[int, int] | None) -> str:
    """Formats a range of counts: 1,000, or 900–1,000."""
    if counts is None:
        return MISSING
    low, high = counts
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def p_value(p: float) -> str:
    """Formats a p-value: three decimals, the order of magnitude below 0.001, a bound below 1e-300."""
    if p < 1e-300:
        return "< 1e-300"
    return f"{p:.0e}" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Formats seconds: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def block_label(task: str, split: str) -> str:
    """Formats a task and its split: arithmetic (test)."""
    return printable(f"{task} ({split})" if split else task)


def listed(parts: Sequence[str]) -> str:
    """Formats a list in a sentence: a, b and c."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
