"""Chart: a table with intervals as a figure for a notebook."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import plotly.graph_objects as go
import polars as pl

from elicitation.pages.kit.palette import ASSISTED, BASE, RANKED, TUNED, faded
from lab.records.errors import EstimateError

INKS = (RANKED[0], TUNED, RANKED[1], BASE, ASSISTED, RANKED[2], RANKED[3])
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "star", "pentagon", "x")


def chart(
    table: pl.DataFrame,
    x: str,
    y: str = "value",
    *,
    color: str | None = None,
    kind: Literal["bar", "line", "dots"] = "bar",
    title: str = "",
    labels: Mapping[str, str] = MappingProxyType({}),
    log_x: bool = False,
) -> go.Figure:
    """The column `y` over `x`, a colour for each value of `color`; the columns `low` and `high` are its interval.

    Bars and dots have error bars, lines a band. `labels` say in words what columns mean. Else EstimateError.

    >>> len(el.chart(el.next_token(el.load("zero-base"), "<1+2?", ["T", "A"]), x="token").data)
    1
    """
    if kind not in (kinds := ("bar", "line", "dots")):
        raise EstimateError(f"a chart of kind {kind!r}: want one of {', '.join(kinds)}")
    figure = go.Figure()
    names = [""] if color is None else table[color].unique(maintain_order=True).to_list()
    for number, name in enumerate(names):
        ink, symbol = INKS[number % len(INKS)], SYMBOLS[number % len(SYMBOLS)]
        rows = table if color is None else table.filter(pl.col(color) == name)
        bars = error_bars(rows, y) if {"low", "high"} <= {*rows.columns} else None
        drawn = {"x": rows[x].to_list(), "y": rows[y].to_list(), "name": str(name), "legendgroup": str(name)}
        match kind:
            case "bar":
                figure.add_bar(**drawn, error_y=bars, marker_color=ink)
            case "dots":
                marker = {"color": ink, "size": 9, "symbol": symbol}
                figure.add_scatter(**drawn, error_y=bars, mode="markers", marker=marker)
            case "line":
                if bars is not None:
                    there, back = rows[x].to_list(), rows[x].reverse().to_list()
                    edge = [*rows["high"], *rows["low"].reverse()]
                    band = {"fill": "toself", "fillcolor": faded(ink), "mode": "none", "hoverinfo": "skip"}
                    figure.add_scatter(x=there + back, y=edge, **band, legendgroup=str(name), showlegend=False)
                figure.add_scatter(**drawn, mode="lines+markers", line_color=ink, marker_symbol=symbol)
    # Beside each other where they would lie on each other.
    beside = "overlay" if color is None or table[x].dtype.is_numeric() else "group"
    layout = {"title": title, "height": 380, "margin": {"t": 60 if title else 20, "b": 50}, "scattermode": beside}
    figure.update_layout(**layout, showlegend=color is not None)
    figure.update_xaxes(title=labels.get(x, x), type="category" if kind == "bar" else "log" if log_x else None)
    if log_x:
        figure.update_xaxes(tickvals=sorted({*table[x]}))
    return figure.update_yaxes(title=labels.get(y, y), rangemode="normal" if kind == "dots" else "tozero")


def error_bars(table: pl.DataFrame, value: str = "value") -> dict[str, object]:
    """`error_y` or `error_x` of the column `value`, whose intervals are the columns `low` and `high`."""
    return {
        "symmetric": False,
        "array": (table["high"] - table[value]).to_list(),
        "arrayminus": (table[value] - table["low"]).to_list(),
    }
