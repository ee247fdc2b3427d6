"""Path plot: what each route of retraining reaches from the same base."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from lab.report.canvas import WIDE, Canvas
from lab.report.dot_plot import Dot, dot_plot
from lab.report.numerals import interval, percent
from lab.report.palette import ArmStyle, completed
from lab.tables import Column, Schema

PATH = Schema(
    "path",
    (
        Column("base", pl.String, "the model that every route starts from"),
        Column("task", pl.String, "the task it is trained and tested on"),
        Column("route", pl.String, "how it was trained, such as `one round` or `many rounds`"),
        Column("value", pl.Float64, "strict accuracy it reaches, a fraction"),
        Column("low", pl.Float64, "lower end of its 95 % interval over problems"),
        Column("high", pl.Float64, "upper end of its 95 % interval over problems"),
    ),
)


def path_plot(path: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """One row for each row of `PATH`, the first on top; a route has one ink."""
    styles = completed({}, PATH.checked(path)["route"].unique(maintain_order=True))
    dots = [_dot(row, styles[row["route"]], canvas) for row in path.reverse().iter_rows(named=True)]
    return dot_plot(dots, canvas, axis="Problems solved at the first try, strict")


def _dot(row: Mapping[str, Any], style: ArmStyle, canvas: Canvas) -> Dot:
    note = f"{percent(row['value'], 0)} {interval(row['low'], row['high'], 0)}".strip() if canvas.note_room else ""
    name = f"{row['route']} · {row['base']}, {row['task']}"
    return Dot(name=name, value=row["value"], low=row["low"], high=row["high"], style=style, note=note)
