"""The figures of a calibration's page: shares against the truth, routes of retraining, and what was forgotten."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.canvas import WIDE, Canvas, bars, blank, key, level, marks, panels, quiet_axis
from elicitation.pages.kit.numerals import PERCENT, WHOLE, percent, points
from elicitation.pages.kit.palette import ASSISTED, MUTED, RANKED, STEERED, TUNED, Style, completed
from elicitation.pages.kit.plots import TICKS, dot, dot_plot
from lab.records.tables import Column, Schema

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
FORGETTING = Schema(
    "forgetting",
    (
        Column("case", pl.String, "organism, problem mix and seed"),
        Column("kl", pl.Float64, "nats: divergence of the tuned model from its base on the new task, a completion"),
        Column("drop", pl.Float64, "accuracy lost on the old task, a fraction; negative where it rose"),
    ),
)
KINDS: Mapping[str, tuple[Style, str]] = MappingProxyType(
    {
        "LOCKED": (Style(ink=STEERED, symbol="circle", dash="none"), "all of it was there, behind a trigger"),
        "MIXED": (Style(ink=RANKED[1], symbol="square", dash="none"), "part was there, part was taught"),
        "TAUGHT": (Style(ink=TUNED, symbol="diamond", dash="none"), "none of it was there"),
        "DILUTED": (Style(ink=STEERED, symbol="circle-open", dash="none"), "all of it was there, but rare"),
        "ATOMS": (Style(ink=ASSISTED, symbol="triangle-up-open", dash="none"), "only the parts were there"),
        "SHARPENED": (Style(ink=RANKED[3], symbol="diamond-open", dash="none"), "all of it was there, but unsure"),
    }
)
"""Kind of organism -> its look and what it is; only kinds with a filled mark make the figures of the records."""
_STEP = 1.6
"""Percent of the truth between trials that are set apart."""


def share_panels(trials: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """`TRIALS` that gave a share and have a true one, one panel for each share of each estimator; drawn in percent."""
    placed = drawable(trials)
    drawn = {
        f"{estimator}: {quantity}": [
            level([-9.0, 109.0], [-9.0, 109.0]),
            *_points(placed.filter(pl.col("estimator") == estimator, pl.col("quantity") == quantity)),
        ]
        for estimator, quantity in placed.select("estimator", "quantity").unique(maintain_order=True).iter_rows()
    }
    figure = panels(drawn, canvas, panel=360, foot=30, gaps=(0.06, 0.34))
    figure.update_xaxes(quiet_axis("True share"), range=[-9, 109], **TICKS)
    figure.update_yaxes(quiet_axis(""), range=_reach(placed), **TICKS)
    columns = min(canvas.columns, len(drawn))
    for row in range(-(-len(drawn) // columns)):
        title = {"text": "Estimated share", "font": {"size": 12, "color": MUTED}}
        figure.update_yaxes(title=title, row=row + 1, col=1)
    figure.update_layout(margin={"t": 50, "l": 62 if columns > 1 else 56})
    return figure


def drawable(trials: pl.DataFrame) -> pl.DataFrame:
    """The trials that have a place in the panels."""
    return trials.filter(
        pl.col("kind").is_in(list(KINDS)),
        pl.col("refusal").is_null(),
        pl.col("value").is_not_nan(),
        pl.col("truth").is_not_nan(),
    )


def share_key(trials: pl.DataFrame) -> Markup:
    """What each mark of the panels is, as HTML."""
    present = set(drawable(trials)["kind"])
    return key([(f"{kind}: {means}", style) for kind, (style, means) in KINDS.items() if kind in present])


def _points(chosen: pl.DataFrame) -> list[go.Scatter]:
    """One trace a kind; trials of one truth stand side by side so that no interval hides another."""
    ordered = chosen.sort("truth", "kind", "case", maintain_order=True).to_dicts()
    places = _dodged([100 * row["truth"] for row in ordered])
    placed = list(zip(ordered, places, strict=True))
    return [
        _marks(KINDS[kind][0], [(row, place) for row, place in placed if row["kind"] == kind])
        for kind in KINDS
        if any(row["kind"] == kind for row in ordered)
    ]


def _marks(style: Style, placed: Sequence[tuple[Mapping[str, Any], float]]) -> go.Scatter:
    rows = [row for row, _ in placed]
    values, lows, highs = ([100 * row[name] for row in rows] for name in ("value", "low", "high"))
    said = [f"{row['case']}: estimated {PERCENT.said(row)}, true {percent(row['truth'])}" for row in rows]
    spans = bars(values, lows, highs, style.ink, 1.4)
    return marks([place for _, place in placed], values, style, said, size=9, error_y=spans)


def _dodged(truths: Sequence[float]) -> list[float]:
    """Sorted truths, those within a step of each other spread around their mean."""
    groups: list[list[float]] = []
    for truth in truths:
        if groups and truth - groups[-1][0] < 6:
            groups[-1].append(truth)
        else:
            groups.append([truth])
    places = []
    for group in groups:
        middle, step = sum(group) / len(group), min(_STEP, 14 / len(group))
        places += [middle + (index - (len(group) - 1) / 2) * step for index in range(len(group))]
    return places


def _reach(drawn: pl.DataFrame) -> list[float]:
    """Ends of the estimated axis: all values whole, intervals as far as half the axis past its ends."""
    values = drawn["value"].to_list()
    lows = [max(-0.5, low) for low in drawn["low"].drop_nans().to_list()]
    highs = [min(1.5, high) for high in drawn["high"].drop_nans().to_list()]
    return [100 * min([0.0, *values, *lows]) - 7, 100 * max([1.0, *values, *highs]) + 7]


def path_plot(path: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """One row for each row of `PATH`, the first on top; a route has one ink."""
    styles = completed({}, PATH.checked(path)["route"].unique(maintain_order=True))
    dots = [
        dot(
            row,
            f"{row['route']} · {row['base']}, {row['task']}",
            styles[row["route"]],
            note=canvas.beside(WHOLE.said(row)),
        )
        for row in path.reverse().iter_rows(named=True)
    ]
    return dot_plot(dots, canvas, axis="Problems solved at the first try, strict")


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
        figure.add_trace(level(ends.tolist(), (100 * (line.intercept + line.slope * ends)).tolist(), width=1.4))
    rows = known.to_dicts()
    said = [f"{row['case']}: {row['kl']:.2f} nats, {points(row['drop'])} points lost" for row in rows]
    style = Style(ink=STEERED, symbol="circle")
    drops = [100 * row["drop"] for row in rows]
    figure.add_trace(marks([row["kl"] for row in rows], drops, style, said, size=10, cliponaxis=False))
    figure.update_xaxes(quiet_axis("Divergence on the new task, nats"))
    figure.update_yaxes(quiet_axis("Accuracy lost on the old task, points"))
    return figure


def _known(forgetting: pl.DataFrame) -> pl.DataFrame:
    return FORGETTING.checked(forgetting).filter(pl.col("kl").is_finite(), pl.col("drop").is_finite())
