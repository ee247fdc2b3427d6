"""Numerals: how a fraction, a gain and an interval are written, the same in every place a reader meets them."""

import math

ABSENT = "–"
"""What stands for an undefined number."""


def percent(fraction: float, digits: int = 1) -> str:
    """0.946 -> `94.6 %`."""
    return ABSENT if math.isnan(fraction) else f"{_fixed(100 * fraction, digits)}\u202f%"


def points(fraction: float, digits: int = 1) -> str:
    """A signed difference of two fractions: 0.413 -> `+41.3`."""
    if math.isnan(fraction):
        return ABSENT
    text = _fixed(100 * fraction, digits)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def interval(low: float, high: float, digits: int = 1) -> str:
    """Both ends in percent or points: (-0.02, 0.06) -> `[−2.0, 6.0]`; empty where undefined."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{_fixed(100 * low, digits)},\u00a0{_fixed(100 * high, digits)}]"


def bits(value: float) -> str:
    """Bits per token in three figures; infinite is `all`."""
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "all"
    return "0" if value == 0 else f"{value:.3g}" if value >= 0.001 else "<0.001"


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")
