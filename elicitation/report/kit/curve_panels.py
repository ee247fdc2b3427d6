"""Curve panels: strict and answer-only beside each other, one line an arm, a band for its interval.

A task whose process cannot be checked has one panel, since both would be the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from elicitation.report.kit.canvas import Canvas, blank, quiet_axis
from elicitation.report.kit.markup import plotly_text
from elicitation.report.kit.palette import MUTED, PAPER, ArmStyle, completed, faded
from lab.records.numerals import interval, percent

MEASURES = {"strict": "Strict: right by a valid process", "answer": "Answer only"}
UNCHECKED = {"answer": "Answer"}
"""The only panel of a task whose process cannot be checked: its strict curves are its answer curves."""
_PANEL = 330
_TICKS = (0, 25, 50, 75, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Horizontal:
    """What the horizontal axis counts; each distinct value of the column is one position."""

    column: str
    title: str
    positions: Mapping[object, float]
    """Value of the column -> place on the axis."""
    ticks: Sequence[tuple[float, str]]
    spread: Literal["band", "bars"]
    """A band suits a continuous axis, bars a list of groups."""


def curve_panels(
    frame: pl.DataFrame,
    horizontal: Horizontal,
    canvas: Canvas,
    styles: Mapping[str, ArmStyle],
    *,
    axis: str,
    process_checked: bool = True,
) -> go.Figure:
    """Columns `arm label measure value low high` and the horizontal one; values are fractions, drawn in percent."""
    titles = MEASURES if process_checked else UNCHECKED
    measures = [measure for measure in titles if measure in frame["measure"]]
    arms = frame["arm"].unique(maintain_order=True).to_list()
    inks = completed(styles, arms)
    columns = min(canvas.columns, len(measures))
    rows = -(-len(measures) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.045,
        vertical_spacing=0.3 / rows,
        figure=blank(canvas, height=_PANEL * rows),
    )
    drawn = sorted(arms, key=lambda arm: not inks[arm].faint)
    for index, measure in enumerate(measures):
        suffix = str(index + 1) if index else ""
        figure.add_annotation(**_heading(titles[measure], suffix))
        for place, arm in enumerate(drawn):
            chosen = frame.filter((pl.col("arm") == arm) & (pl.col("measure") == measure))
            offset = (place - (len(arms) - 1) / 2) * min(0.07, 0.4 / len(arms)) if horizontal.spread == "bars" else 0.0
            for trace in _curve(chosen, horizontal, inks[arm], offset):
                figure.add_trace(trace.update(xaxis=f"x{suffix}", yaxis=f"y{suffix}"))
    places = [place for place, _ in horizontal.ticks]
    figure.update_xaxes(
        quiet_axis(horizontal.title), tickvals=places, ticktext=[plotly_text(text) for _, text in horizontal.ticks]
    )
    figure.update_yaxes(
        quiet_axis(""), range=[-1, 102], tickvals=_TICKS, ticktext=[f"{tick}\u202f%" for tick in _TICKS]
    )
    if columns == len(measures):
        figure.update_yaxes(title={"text": axis, "font": {"size": 12, "color": MUTED}}, selector={"anchor": "x"})
    return figure


def _heading(text: str, suffix: str) -> dict[str, object]:
    return {
        "text": text,
        "x": 0,
        "xref": f"x{suffix} domain",
        "xanchor": "left",
        "y": 1,
        "yref": f"y{suffix} domain",
        "yanchor": "bottom",
        "yshift": 6,
        "showarrow": False,
        "font": {"size": 13, "color": MUTED},
    }


def _curve(frame: pl.DataFrame, horizontal: Horizontal, style: ArmStyle, offset: float) -> list[go.Scatter]:
    xs = [horizontal.positions[value] + offset for value in frame[horizontal.column]]
    values, lows, highs = ([100 * value for value in frame[name]] for name in ("value", "low", "high"))
    hovers = [
        plotly_text(f"{row['label']}, {horizontal.column} {row[horizontal.column]}: {percent(row['value'])} ")
        + interval(row["low"], row["high"])
        for row in frame.iter_rows(named=True)
    ]
    ink = style.ink
    line = go.Scatter(
        x=xs,
        y=values,
        mode="lines+markers",
        line={"color": ink, "width": 1.4 if style.faint else 2.4, "dash": style.dash},
        marker={
            "symbol": style.symbol,
            "size": 6 if style.faint else 8,
            "color": ink,
            "maxdisplayed": 8,
            "line": {"color": ink if style.faint else PAPER, "width": 1},
        },
        customdata=hovers,
        hovertemplate="%{customdata}<extra></extra>",
    )
    if horizontal.spread == "bars":
        line.error_y = {
            "type": "data",
            "symmetric": False,
            "array": [high - value for high, value in zip(highs, values, strict=True)],
            "arrayminus": [value - low for low, value in zip(lows, values, strict=True)],
            "color": ink,
            "thickness": 1.2,
            "width": 0,
        }
        return [line]
    band = go.Scatter(
        x=[*xs, *reversed(xs)],
        y=[*highs, *reversed(lows)],
        fill="toself",
        fillcolor=faded(ink),
        line={"width": 0, "color": ink},
        mode="lines",
        hoverinfo="skip",
    )
    return [band, line]
