"""Quantity: an estimate written in its own unit, with its interval."""

import math

from lab.report.numerals import ABSENT, interval, percent, points

_OF = {"share": "of the gain", "tokens": "of tokens", "problems": "of problems"}
"""What a fraction is a fraction of; a probability needs no word."""
_TINY = 0.001
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def quantity(unit: str, value: float, low: float, high: float) -> tuple[str, str]:
    """(value with its unit, interval), both plain text; the interval is empty where it is undefined.

    `unit` is one of `lab.estimators.estimate.Unit`; shares, probabilities, points, tokens and problems are fractions.
    """
    if math.isnan(value):
        return ABSENT, ""
    if unit == "points":
        return f"{points(value)} points", interval(low, high)
    known = not (math.isnan(low) or math.isnan(high))
    if unit in ("share", "probability", "tokens", "problems"):
        tiny = any(0 < abs(end) < _TINY for end in (value, low, high))
        write = _scientific if tiny else percent
        span = interval(low, high) if not tiny else f"[{write(low)},\u00a0{write(high)}]" if known else ""
        return f"{write(value)} {_OF.get(unit, '')}".rstrip(), span
    return f"{_plain(value)} {unit}", f"[{_plain(low)},\u00a0{_plain(high)}]" if known else ""


def _plain(value: float) -> str:
    """Three figures; whole numbers from a hundred up."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace(",", "\u202f").replace("-", "−")


def _scientific(fraction: float) -> str:
    """A fraction too small for percent: 3.2·10⁻⁶."""
    if fraction == 0 or abs(fraction) >= 0.1:
        return percent(fraction)
    digits, exponent = f"{fraction:.1e}".split("e")
    return f"{digits}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", "−")
