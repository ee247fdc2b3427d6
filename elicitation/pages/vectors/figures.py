"""The figures of a page of vectors: how well the base does under each fit and its controls, and at several doses."""

import math
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from elicitation.pages.kit.canvas import Canvas
from elicitation.pages.kit.curve_panels import Horizontal, curve_panels
from elicitation.pages.kit.dot_plot import Dot, dot, dot_plot, mark_gain
from elicitation.pages.kit.numerals import figures
from elicitation.pages.kit.palette import BASE_STYLE, STEERED, TUNED_STYLE, Style, hollow
from elicitation.pages.kit.ruler import WHOLE
from elicitation.pages.vectors.tables import CONTROLS, ENDS, VectorTables

_FIT = Style(ink=STEERED, symbol="pentagon")
_MEASURES = {"strict": "Strict: right by a valid process", "answer": "Answer only"}


def effect_figure(tables: VectorTables, decoding: str, canvas: Canvas) -> go.Figure:
    """Strict accuracy: the base at the bottom, the tuned model at the top, each fit above its controls."""
    base, tuned = (tables.row(end, "strict", decoding) for end in ENDS)
    between = [row for row in tables.rows("strict", decoding) if row["fit"] not in ENDS][::-1]
    upwards = [row for fit in dict.fromkeys(row["fit"] for row in between) for row in between if row["fit"] == fit]
    dots = [_dot(row, canvas) for row in (base, *upwards, tuned)]
    figure = dot_plot(dots, canvas, axis="Problems solved, strict", note_title="share of the gain")
    mark_gain(figure, base["value"], tuned["value"], canvas)
    return figure


def fit_styles(tables: VectorTables) -> dict[str, Style]:
    """The look of every fit whose doses were tried."""
    return dict.fromkeys(tables.doses["fit"], _FIT)


def words(row: Mapping[str, Any]) -> str:
    """A row of `VectorTables` in words: the fit or the model, or which control of it."""
    control = row["control"]
    return str(row["label"] if control is None else CONTROLS.get(control, control))


def _dot(row: Mapping[str, Any], canvas: Canvas) -> Dot:
    if row["control"] is not None:
        return dot(row, words(row), hollow(STEERED))
    style = dict(zip(ENDS, (BASE_STYLE, TUNED_STYLE), strict=True)).get(row["fit"], _FIT)
    share = "" if math.isnan(row["share"]) else WHOLE.said(row, "share")
    note = canvas.beside(share if row["refusal"] is None else "refused")
    return dot(row, words(row), style, note=note)


def dose_figure(tables: VectorTables, canvas: Canvas) -> go.Figure:
    """Accuracy by dose; a line a fit, from what the base does without a vector."""
    kept = ("value", "low", "high")
    rows = []
    for measure in _MEASURES:
        plain = tables.row("base", measure, "sampled")
        for fit, label in dosed_labels(tables).items():
            common = {"fit": fit, "label": label, "measure": measure}
            chosen = tables.doses.filter(pl.col("fit") == fit, pl.col("quantity") == measure).sort("dose")
            for row in (plain | {"dose": 0.0}, *chosen.iter_rows(named=True)):
                rows.append(common | {name: row[name] for name in ("dose", *kept)})
    doses = sorted({row["dose"] for row in rows})
    horizontal = Horizontal(
        column="dose",
        title="Dose",
        positions={dose: dose for dose in doses},
        ticks=[(dose, figures(dose)) for dose in doses],
    )
    return curve_panels(
        pl.DataFrame(rows), horizontal, canvas, fit_styles(tables), by="fit", titles=_MEASURES,
        axis="Solved at the first try",
    )  # fmt: skip


def dosed_labels(tables: VectorTables) -> dict[str, str]:
    """Fit -> its name in human words, of those whose doses were tried."""
    return {fit: tables.labels.get(str(fit), str(fit)) for fit in tables.doses["fit"].unique(maintain_order=True)}
