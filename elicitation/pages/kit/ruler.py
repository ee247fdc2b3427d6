"""Ruler: how a value and its interval are drawn on an axis, written in a sentence and set in a table."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from elicitation.pages.kit.markup import markup
from elicitation.pages.kit.numerals import bits, figures, fixed, interval, percent, points, signed, span


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
