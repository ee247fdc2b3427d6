"""Quantity: an estimate written in its own unit, with its interval."""

import math

from lab.report.numerals import ABSENT, figures, interval, percent, points, scientific, span

_OF = {"share": "of the gain", "tokens": "of tokens", "problems": "of problems"}
"""What a fraction is a fraction of; a probability needs no word."""
_TINY = 0.001


def quantity(unit: str, value: float, low: float, high: float) -> tuple[str, str]:
    """(value with its unit, interval), both plain text; the interval is empty where it is undefined.

    `unit` is one of `lab.estimators.estimate.Unit`; shares, probabilities, points, tokens and problems are fractions.
    """
    if math.isnan(value):
        return ABSENT, ""
    if unit == "points":
        return f"{points(value)} points", interval(low, high)
    if unit in ("share", "probability", "tokens", "problems"):
        tiny = any(0 < abs(end) < _TINY for end in (value, low, high))
        write = _small if tiny else percent
        written = span(low, high, write) if tiny else interval(low, high)
        return f"{write(value)} {_OF.get(unit, '')}".rstrip(), written
    return f"{figures(value)} {unit}", span(low, high)


def _small(fraction: float) -> str:
    """A fraction too small for percent: 3.2·10⁻⁶."""
    return percent(fraction) if fraction == 0 or abs(fraction) >= 0.1 else scientific(fraction)
