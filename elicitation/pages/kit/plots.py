"""Plots: rows with a dot and an interval each, and panels of curves beside each other, one line a thing."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go
import polars as pl

from elicitation.pages.kit.canvas import Canvas, bars, blank, marks, panels, quiet_axis, word
from elicitation.pages.kit.markup import plotly_text, shortened
from elicitation.pages.kit.numerals import PERCENT, Ruler, ends
from elicitation.pages.kit.palette import BASE, INK, MUTED, SHADE, TUNED, Style, completed, faded

_ROW, _FAINT_ROW, _NAMED_ROW, _SECOND_LINE = 36, 27, 48, 8
_HEAD, _FOOT = 34, 46
_NOTE_STEP = 7
"""Pixels a character of a note takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """One row, from the bottom up."""

    name: str
    value: float
    low: float
    high: float
    style: Style
    note: str = ""
    """A short remark at the right, such as the share."""


def dot(row: Mapping[str, Any], name: str, style: Style, *, of: str = "value", note: str = "") -> Dot:
    """The row of a table, whose column `of` is the value."""
    low, high = ends(row, of)
    return Dot(name=name, value=row[of], low=low, high=high, style=style, note=note)


def dot_plot(
    dots: Sequence[Dot], canvas: Canvas, *, axis: str, note_title: str = "", ruler: Ruler = PERCENT
) -> go.Figure:
    """Rows bottom to top in the order given; `axis` is its title. A value that is NaN leaves its row without a mark."""
    heights = [_height(dot, canvas) for dot in dots]
    tops = list(itertools.accumulate(heights))
    raised = 12 if canvas.label_room == 0 else 0
    figure = blank(canvas, height=tops[-1] + _HEAD + _FOOT)
    words = []
    for dot, top, height in zip(dots, tops, heights, strict=True):
        middle, faint = top - height / 2, dot.style.faint
        figure.add_trace(_mark(dot, middle - raised, ruler))
        words.append(_name(dot, middle + raised, canvas))
        if canvas.note_room and dot.note:
            words.append(_beside(dot.note, middle, MUTED if faint else INK))
    if canvas.note_room and note_title:
        words.append(_beside(note_title, 1.0, MUTED) | {"yref": "paper", "yanchor": "bottom", "yshift": 6})
    start, stop = ruler.reach(end for dot in dots for end in (dot.value, dot.low, dot.high))
    if start < ruler.factor * ruler.origin:
        figure.add_vline(x=ruler.factor * ruler.origin, line={"color": MUTED, "width": 1, "dash": "dot"}, layer="below")
    figure.update_xaxes(
        quiet_axis(plotly_text(shortened(axis, 90 if canvas.label_room else 48))),
        range=[start, stop],
        ticksuffix=ruler.suffix,
        nticks=6,
        tickangle=0,
    )
    figure.update_yaxes(visible=False, range=[0, tops[-1]], fixedrange=True)
    margin = {"l": canvas.label_room or 12, "r": _right(dots, canvas), "t": _HEAD, "b": _FOOT}
    # All at once: plotly checks every annotation again at each that is added.
    figure.update_layout(annotations=words, margin=margin)
    return figure


def mark_gain(figure: go.Figure, base: float, tuned: float, canvas: Canvas) -> None:
    """Shades what lies between the base and the tuned model, and says how much it is."""
    for value, ink in ((base, BASE), (tuned, TUNED)) if canvas.label_room else ():
        figure.add_vline(x=100 * value, line={"color": ink, "width": 1, "dash": "dot"}, layer="below")
    figure.add_vrect(x0=100 * base, x1=100 * tuned, fillcolor=SHADE, line_width=0, layer="below")
    said = f"the gain: {100 * (tuned - base):.0f} points".replace("-", "−")
    figure.add_annotation(**word(said, 50 * (base + tuned), 1.0, yref="paper", yanchor="bottom", yshift=6))


def _lines(dot: Dot, canvas: Canvas) -> list[str]:
    if canvas.label_room:
        return textwrap.wrap(dot.name, 36 if dot.style.faint else 33, max_lines=2, placeholder=" …")
    name = shortened(dot.name, 44 - len(dot.note))
    return [f"{name} · {dot.note}" if dot.note else name]


def _height(dot: Dot, canvas: Canvas) -> int:
    if canvas.label_room == 0:
        return _NAMED_ROW
    return (_FAINT_ROW if dot.style.faint else _ROW) + _SECOND_LINE * (len(_lines(dot, canvas)) - 1)


def _mark(dot: Dot, middle: float, ruler: Ruler) -> go.Scatter:
    value, low, high = (ruler.factor * end for end in (dot.value, dot.low, dot.high))
    faint = dot.style.faint
    return marks(
        [value],
        [middle],
        dot.style,
        [f"{dot.name}: {ruler.write(dot.value)} {ruler.span(dot.low, dot.high)}".rstrip()],
        size=8 if faint else 12,
        # A mark at zero is drawn whole.
        cliponaxis=False,
        error_x=bars([value], [low], [high], dot.style.ink, 1.2 if faint else 2.6),
    )


def _name(dot: Dot, middle: float, canvas: Canvas) -> dict[str, object]:
    narrow, faint = canvas.label_room == 0, dot.style.faint
    placed = {"xanchor": "left", "align": "left"} if narrow else {"xanchor": "right", "align": "right", "xshift": -14}
    text = "<br>".join(map(plotly_text, _lines(dot, canvas)))
    ink, size = (MUTED, 12) if faint else (INK, 13)
    return word("", 0.0, middle, ink=ink, size=size, xref="paper", yanchor="middle", **placed) | {"text": text}


def _beside(text: str, middle: float, ink: str) -> dict[str, object]:
    return word(text, 1.0, middle, ink=ink, xref="paper", xanchor="left", xshift=14, yanchor="middle", align="left")


def _right(dots: Sequence[Dot], canvas: Canvas) -> int:
    """Pixels right of the plot: room for the longest note, if notes stand there."""
    longest = max((len(dot.note) for dot in dots), default=0)
    if longest == 0:
        return 24
    return max(canvas.note_room, round(_NOTE_STEP * longest) + 16) if canvas.note_room else 18


TICKS = {"tickvals": [0, 25, 50, 75, 100], "ticktext": [f"{tick}\u202f%" for tick in (0, 25, 50, 75, 100)]}
"""Of an axis of fractions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Horizontal:
    """What the horizontal axis counts; each distinct value of the column is one position."""

    column: str
    title: str
    positions: Mapping[object, float]
    """Value of the column -> place on the axis."""
    ticks: Sequence[tuple[float, str]]
    spread: Literal["band", "bars"] = "band"
    """A band suits a continuous axis, bars a list of groups."""


def curve_panels(
    frame: pl.DataFrame,
    horizontal: Horizontal,
    canvas: Canvas,
    styles: Mapping[str, Style],
    *,
    by: str,
    titles: Mapping[str, str],
    axis: str,
) -> go.Figure:
    """Columns `label measure value low high`, `by`, which names a line, and the horizontal one.

    `titles` is measure -> heading of its panel, in order; values are fractions, drawn in percent.
    """
    names = frame[by].unique(maintain_order=True).to_list()
    inks = completed(styles, names)
    ordered = sorted(names, key=lambda name: not inks[name].faint)
    step = min(0.07, 0.4 / len(names)) if horizontal.spread == "bars" else 0.0
    offsets = {name: (place - (len(names) - 1) / 2) * step for place, name in enumerate(ordered)}
    drawn: dict[str, list[go.Scatter]] = {}
    for measure in (measure for measure in titles if measure in frame["measure"]):
        chosen = [(name, frame.filter(pl.col(by) == name, pl.col("measure") == measure)) for name in ordered]
        curves = [_curve(rows, horizontal, inks[name], offsets[name]) for name, rows in chosen]
        drawn[titles[measure]] = [trace for curve in curves for trace in curve]
    figure = panels(drawn, canvas, panel=330, foot=0, gaps=(0.045, 0.3))
    places = [place for place, _ in horizontal.ticks]
    figure.update_xaxes(
        quiet_axis(horizontal.title), tickvals=places, ticktext=[plotly_text(text) for _, text in horizontal.ticks]
    )
    figure.update_yaxes(quiet_axis(""), range=[-1, 102], **TICKS)
    if canvas.columns >= len(drawn):
        figure.update_yaxes(title={"text": axis, "font": {"size": 12, "color": MUTED}}, selector={"anchor": "x"})
    return figure


def _curve(frame: pl.DataFrame, horizontal: Horizontal, style: Style, offset: float) -> list[go.Scatter]:
    xs = [horizontal.positions[value] + offset for value in frame[horizontal.column]]
    values, lows, highs = ([100 * value for value in frame[name]] for name in ("value", "low", "high"))
    rows = frame.iter_rows(named=True)
    said = [f"{row['label']}, {horizontal.column} {row[horizontal.column]}: {PERCENT.said(row)}" for row in rows]
    line = marks(xs, values, style, said, size=6 if style.faint else 8, mode="lines+markers").update(
        line={"color": style.ink, "width": 1.4 if style.faint else 2.4, "dash": style.dash},
        marker={"maxdisplayed": 8},
    )
    if horizontal.spread == "bars":
        return [line.update(error_y=bars(values, lows, highs, style.ink, 1.2))]
    band = go.Scatter(
        x=[*xs, *reversed(xs)],
        y=[*highs, *reversed(lows)],
        fill="toself",
        fillcolor=faded(style.ink),
        line={"width": 0, "color": style.ink},
        mode="lines",
        hoverinfo="skip",
    )
    return [band, line]
