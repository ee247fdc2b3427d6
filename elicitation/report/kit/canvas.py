"""Canvas: the room a figure has; every figure exists in a wide and a narrow shape."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import plotly.graph_objects as go

from elicitation.report.kit.markup import escaped
from elicitation.report.kit.palette import GRID, INK, MUTED, PAPER
from lab.records.numerals import fixed, interval, percent, signed, span

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """What a figure may assume about its width."""

    label_room: int
    """Pixels left of the plot for row names; 0 puts each name above its row."""
    note_room: int
    """Pixels right of the plot for row notes; 0 appends each note to the name."""
    columns: int
    """Panels side by side."""


WIDE = Canvas(label_room=268, note_room=150, columns=2)
NARROW = Canvas(label_room=0, note_room=0, columns=1)


def blank(canvas: Canvas, height: int) -> go.Figure:
    """An empty figure in house style: no toolbar gestures, so a finger on it scrolls the page."""
    figure = go.Figure()
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"family": FONT, "size": 13, "color": INK},
        hoverlabel={"bgcolor": PAPER, "bordercolor": MUTED, "font": {"family": FONT, "size": 13, "color": INK}},
        hovermode="closest",
        dragmode=False,
        showlegend=False,
        margin={"l": 60, "r": 14, "t": 34, "b": 48} if canvas.columns > 1 else {"l": 40, "r": 10, "t": 30, "b": 46},
    )
    return figure


def quiet_axis(title: str) -> dict[str, object]:
    """An axis that stays behind the data."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": MUTED}, "standoff": 8},
        "tickfont": {"size": 12, "color": MUTED},
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "fixedrange": True,
        "automargin": False,
    }


def sheet(headings: Sequence[str], rows: Sequence[Sequence[str]], sentences: Collection[str] = ()) -> str:
    """A row's cells, the first being its name, are trusted HTML; headings are plain text.

    Columns whose heading is among `sentences` hold words and are set like text, the others like numbers.
    """
    kinds = [' class="words"' if heading in sentences else "" for heading in headings]
    head = "".join(
        f'<th scope="col"{kind}>{escaped(heading)}</th>' for heading, kind in zip(headings, kinds, strict=True)
    )
    body = "".join(_row(headings, kinds, cells) for cells in rows)
    few = " few" if len(headings) <= 4 else ""
    pair = " pair" if len(headings) == 2 else ""
    table = f'<table class="ladder sheet{few}{pair}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def with_span(value: str, span: str) -> str:
    """A written number and a quiet remark below it; no remark where it is empty."""
    return f'{value} <span class="span">{escaped(span)}</span>' if span else value


def _row(headings: Sequence[str], kinds: Sequence[str], cells: Sequence[str]) -> str:
    name, *rest = cells
    marked = "".join(
        f'<td{kind} data-heading="{escaped(heading)}"><div>{cell}</div></td>'
        for heading, kind, cell in zip(headings[1:], kinds[1:], rest, strict=True)
    )
    return f'<tr><th scope="row">{name}</th>{marked}</tr>'


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
