"""Ruler: how the values of a dot plot are drawn along its axis and written beside it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from lab.report.numerals import fixed, interval, percent, signed, span


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruler:
    """A unit of measure."""

    factor: float
    """What a value is multiplied by to be drawn."""
    suffix: str
    """After the number at every tick."""
    write: Callable[[float], str]
    span: Callable[[float, float], str]
    """An interval in words; empty where it is undefined."""
    origin: float
    """A value that the axis always holds, such as no effect."""
    most: float
    """Where the axis ends at the latest, as drawn."""

    def reach(self, values: Iterable[float]) -> tuple[float, float]:
        """Ends of an axis as drawn, a little past the outermost of `values`; NaN has no place on it."""
        known = [value for value in values if not math.isnan(value)] or [1.0]
        low, high = min(self.origin, *known), max(self.origin, *known)
        room = 0.08 * (high - low) or 0.01
        start = low - room if low < self.origin else low
        return self.factor * start, min(self.most, self.factor * (high + room))


PERCENT = Ruler(factor=100.0, suffix="\u202f%", write=percent, span=interval, origin=0.0, most=101.5)
"""Fractions, drawn in percent."""
_THREE = partial(fixed, digits=3)
AUROC = Ruler(factor=1.0, suffix="", write=_THREE, span=partial(span, write=_THREE), origin=0.5, most=1.008)
"""From telling nothing apart, 0.5, to telling all."""


def changes(values: Iterable[float]) -> Ruler:
    """Changes to either side of none, with as many decimals as give the largest three figures, two at least."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0) or 1.0
    digits = min(9, max(2, 2 - math.floor(math.log10(largest))))
    write = partial(fixed, digits=digits)
    return Ruler(
        factor=1.0,
        suffix="",
        write=partial(signed, digits=digits),
        span=partial(span, write=write),
        origin=0.0,
        most=math.inf,
    )
