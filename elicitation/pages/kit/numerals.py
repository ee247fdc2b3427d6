"""Numerals: how numbers and intervals are written and drawn, the same in every place a reader meets them."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from elicitation.pages.kit.markup import markup

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruler:
    """A unit of measure. Rows hold a value in the column `name`, its interval in `name_low` and `name_high` or, of the
    row's main value, in `low` and `high`.
    """

    write: Callable[[float], str]
    span: Callable[[float, float], str]
    """An interval in words; empty where it is undefined."""
    factor: float = 1.0
    """What a value is multiplied by to be drawn."""
    suffix: str = ""
    """After the number at every tick."""
    origin: float = 0.0
    """A value that the axis always holds, such as no effect."""
    most: float = math.inf
    """Where the axis ends at the latest, as drawn."""

    def reach(self, values: Iterable[float]) -> tuple[float, float]:
        """Ends of an axis as drawn, a little past the outermost of `values`; NaN has no place on it."""
        known = [value for value in values if not math.isnan(value)] or [1.0]
        low, high = min(self.origin, *known), max(self.origin, *known)
        room = 0.08 * (high - low) or 0.01
        start = low - room if low < self.origin else low
        return self.factor * start, min(self.most, self.factor * (high + room))

    def said(self, row: Mapping[str, Any], name: str = "value") -> str:
        """A row's value and interval, in a sentence."""
        return f"{self.write(row[name])} {self.span(*ends(row, name))}".rstrip()

    def cell(self, row: Mapping[str, Any], name: str = "value") -> Markup:
        """A row's value in a table, its interval below it."""
        return remarked(self.write(row[name]), self.span(*ends(row, name)))


def ends(row: Mapping[str, Any], name: str = "value") -> tuple[float, float]:
    """The interval of a row's value."""
    prefix = f"{name}_" if f"{name}_low" in row else ""
    return row[f"{prefix}low"], row[f"{prefix}high"]


def remarked(value: str, *remarks: str) -> Markup:
    """A written number and quiet remarks below it; none where they are empty."""
    marked = (markup(' <span class="span">{}</span>', remark) for remark in remarks if remark)
    return markup("{}", value) + Markup("").join(marked)


PERCENT = Ruler(factor=100.0, suffix="\u202f%", write=percent, span=interval, most=101.5)
"""Fractions, drawn in percent."""
WHOLE = Ruler(factor=100.0, suffix="\u202f%", write=partial(percent, digits=0), span=partial(interval, digits=0))
"""Fractions in percent without decimals."""
POINTS = Ruler(factor=100.0, write=points, span=interval)
"""Differences of fractions, in points."""
FIGURES = Ruler(write=figures, span=span)
BITS = Ruler(write=bits, span=partial(span, write=bits))


def changes(values: Iterable[float]) -> Ruler:
    """Changes to either side of none, with as many decimals as give the largest three figures, two at least."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0) or 1.0
    digits = min(9, max(2, 2 - math.floor(math.log10(largest))))
    write = partial(fixed, digits=digits)
    return Ruler(write=partial(signed, digits=digits), span=partial(span, write=write))
