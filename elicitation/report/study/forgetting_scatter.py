"""Forgetting scatter: what tuning cost on an old task against how far it moved the model on the new one."""

import math
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import polars as pl

from elicitation.report.kit.canvas import WIDE, Canvas, blank, quiet_axis
from elicitation.report.kit.markup import plotly_text
from elicitation.report.kit.palette import MUTED, PAPER, STEERED
from lab.records.numerals import points
from lab.records.tables import Column, Schema

FORGETTING = Schema(
    "forgetting",
    (
        Column("case", pl.String, "organism, problem mix and seed"),
        Column("kl", pl.Float64, "nats: divergence of the tuned model from its base on the new task, a completion"),
        Column("drop", pl.Float64, "accuracy lost on the old task, a fraction; negative where it rose"),
    ),
)


class Line(NamedTuple):
    """A least-squares line of drop on divergence."""

    slope: float
    """Accuracy lost a nat, a fraction; NaN under three cases or where all diverge alike."""
    intercept: float
    r_squared: float
    """Fraction of the variance of the drops that the line explains; NaN where the drops are all the same."""
    n: int
    """Cases with both numbers."""


def fitted_line(forgetting: pl.DataFrame) -> Line:
    """Ordinary least squares with an intercept, over the cases of `FORGETTING` that have both numbers."""
    known = _known(forgetting)
    kl, drop = known["kl"].to_numpy(), known["drop"].to_numpy()
    spread = float(((kl - kl.mean()) ** 2).sum()) if known.height else 0.0
    if known.height < 3 or spread == 0:
        return Line(math.nan, math.nan, math.nan, known.height)
    slope = float(((kl - kl.mean()) * (drop - drop.mean())).sum()) / spread
    intercept = float(drop.mean() - slope * kl.mean())
    total = float(((drop - drop.mean()) ** 2).sum())
    left = float(((drop - intercept - slope * kl) ** 2).sum())
    return Line(slope, intercept, 1 - left / total if total > 0 else math.nan, known.height)


def forgetting_scatter(forgetting: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """One mark a case and the fitted line; drops are fractions, drawn in points."""
    known, line = _known(forgetting), fitted_line(forgetting)
    figure = blank(canvas, height=360)
    if not math.isnan(line.slope):
        ends = np.array([known["kl"].min(), known["kl"].max()])
        figure.add_trace(
            go.Scatter(
                x=ends.tolist(),
                y=(100 * (line.intercept + line.slope * ends)).tolist(),
                mode="lines",
                line={"color": MUTED, "width": 1.4, "dash": "dot"},
                hoverinfo="skip",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=known["kl"].to_list(),
            y=[100 * drop for drop in known["drop"]],
            mode="markers",
            marker={"symbol": "circle", "size": 10, "color": STEERED, "line": {"color": PAPER, "width": 1}},
            cliponaxis=False,
            customdata=[
                plotly_text(f"{row['case']}: {row['kl']:.2f} nats, {points(row['drop'])} points lost")
                for row in known.iter_rows(named=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(quiet_axis("Divergence on the new task, nats"))
    figure.update_yaxes(quiet_axis("Accuracy lost on the old task, points"))
    return figure


def _known(forgetting: pl.DataFrame) -> pl.DataFrame:
    return FORGETTING.checked(forgetting).filter(pl.col("kl").is_finite(), pl.col("drop").is_finite())
