"""Curve panels: measures of the same things beside each other, one line a thing, a band for its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
import polars as pl

from elicitation.pages.kit.canvas import Canvas, bars, marks, panels, quiet_axis
from elicitation.pages.kit.markup import plotly_text
from elicitation.pages.kit.palette import MUTED, Style, completed, faded
from elicitation.pages.kit.ruler import PERCENT

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
