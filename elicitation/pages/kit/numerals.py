"""Numerals: how a number and an interval are written, the same in every place a reader meets them."""

import math
from collections.abc import Callable

ABSENT = "–"
"""What stands for an undefined number."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(fraction: float, digits: int = 1) -> str:
    """0.946 -> `94.6 %`."""
    return ABSENT if math.isnan(fraction) else f"{fixed(100 * fraction, digits)}\u202f%"


def points(fraction: float, digits: int = 1) -> str:
    """A signed difference of two fractions: 0.413 -> `+41.3`."""
    return signed(100 * fraction, digits)


def interval(low: float, high: float, digits: int = 1) -> str:
    """Both ends in percent or points: (-0.02, 0.06) -> `[−2.0, 6.0]`; empty where undefined."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{fixed(100 * low, digits)},\u00a0{fixed(100 * high, digits)}]"


def bits(value: float) -> str:
    """Bits per token in three figures; infinite is `all`."""
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "all"
    return "0" if value == 0 else f"{value:.3g}" if value >= 0.001 else "<0.001"


def figures(value: float) -> str:
    """Three figures; whole numbers from a hundred up; what is under a thousandth as 3.2·10⁻⁴."""
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if 0 < abs(value) < 0.001:
        return scientific(value)
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace(",", "\u202f").replace("-", "−")


def fixed(value: float, digits: int) -> str:
    """So many decimals: -0.4213 -> `−0.42`; never minus nought."""
    if math.isnan(value):
        return ABSENT
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float, digits: int) -> str:
    """So many decimals with the sign of a change: 0.4213 -> `+0.42`."""
    text = fixed(value, digits)
    return text if text.startswith("−") or math.isnan(value) or float(text) == 0 else f"+{text}"


def span(low: float, high: float, write: Callable[[float], str] = figures) -> str:
    """Both ends as `write` writes them: `[0.31, 0.53]`; empty where undefined."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{write(low)},\u00a0{write(high)}]"


def scientific(value: float) -> str:
    """Two figures and a power of ten: 3.2e-6 -> `3.2·10⁻⁶`."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", "−")
