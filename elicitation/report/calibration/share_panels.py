"""Share panels: estimated against true share, one panel for each share of each estimator."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from elicitation.report.kit.canvas import WIDE, Canvas, blank, quiet_axis
from elicitation.report.kit.markup import escaped, plotly_text
from elicitation.report.kit.palette import ASSISTED, MUTED, PAPER, RANKED, STEERED, TUNED
from lab.records.numerals import interval, percent

_SCORED = {"LOCKED": ("circle", STEERED), "MIXED": ("square", RANKED[1]), "TAUGHT": ("diamond", TUNED)}
_EXTRA = {"DILUTED": ("circle", STEERED), "ATOMS": ("triangle-up", ASSISTED), "SHARPENED": ("diamond", RANKED[3])}
MARKS: Mapping[str, tuple[str, str, bool]] = MappingProxyType(
    {kind: (*look, True) for kind, look in _SCORED.items()} | {kind: (*look, False) for kind, look in _EXTRA.items()}
)
"""Kind of organism -> symbol, ink, and whether it is filled: only filled ones make the headline."""
_MEANS = {
    "LOCKED": "LOCKED: all of it was there, behind a trigger",
    "MIXED": "MIXED: part was there, part was taught",
    "TAUGHT": "TAUGHT: none of it was there",
    "DILUTED": "DILUTED: all of it was there, but rare",
    "ATOMS": "ATOMS: only the parts were there",
    "SHARPENED": "SHARPENED: all of it was there, but unsure",
}
_PANEL, _STEP, _LINE = 360, 1.6, 44
_SHAPES = {
    "circle": '<circle cx="8" cy="8" r="5"/>',
    "square": '<rect x="3.5" y="3.5" width="9" height="9"/>',
    "diamond": '<path d="M8 2 14 8 8 14 2 8Z"/>',
    "triangle-up": '<path d="M8 2.5 14 13H2Z"/>',
}


def share_panels(trials: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """`TRIALS` that gave a share and have a true one; shares are fractions, drawn in percent."""
    drawn = drawable(trials)
    panels = drawn.select("estimator", "quantity").unique(maintain_order=True).rows()
    columns = min(canvas.columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        vertical_spacing=0.34 / rows,
        figure=blank(canvas, height=_PANEL * rows + 30),
    )
    reach = _reach(drawn)
    for index, (estimator, quantity) in enumerate(panels):
        suffix = str(index + 1) if index else ""
        chosen = drawn.filter(pl.col("estimator") == estimator, pl.col("quantity") == quantity)
        figure.add_annotation(**_heading(f"{estimator}: {quantity}", suffix))
        for trace in (_identity(), *_points(chosen)):
            figure.add_trace(trace.update(xaxis=f"x{suffix}", yaxis=f"y{suffix}"))
    ticks = {"tickvals": [0, 25, 50, 75, 100], "ticktext": [f"{tick}\u202f%" for tick in (0, 25, 50, 75, 100)]}
    figure.update_xaxes(quiet_axis("True share"), range=[-9, 109], **ticks)
    figure.update_yaxes(quiet_axis(""), range=reach, **ticks)
    for row in range(rows):
        title = {"text": "Estimated share", "font": {"size": 12, "color": MUTED}}
        figure.update_yaxes(title=title, row=row + 1, col=1)
    figure.update_layout(margin={"t": 50, "l": 62 if columns > 1 else 56})
    return figure


def drawable(trials: pl.DataFrame) -> pl.DataFrame:
    """The trials that have a place in the panels."""
    return trials.filter(
        pl.col("kind").is_in(list(MARKS)),
        pl.col("refusal").is_null(),
        pl.col("value").is_not_nan(),
        pl.col("truth").is_not_nan(),
    )


def share_key(trials: pl.DataFrame) -> str:
    """What each mark of the panels is, as HTML."""
    present = set(drawable(trials)["kind"])
    return '<ul class="key">' + "".join(_item(kind) for kind in MARKS if kind in present) + "</ul>"


def _item(kind: str) -> str:
    symbol, ink, filled = MARKS[kind]
    fill = "currentColor" if filled else "none"
    return (
        f'<li data-ink="{ink}" style="color:{ink}"><svg width="16" height="16" aria-hidden="true" fill="{fill}" '
        f'stroke="currentColor" stroke-width="1.8">{_SHAPES[symbol]}</svg><span>{escaped(_MEANS[kind])}</span></li>'
    )


def _identity() -> go.Scatter:
    """Where an estimate without error would lie."""
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return go.Scatter(x=[-9, 109], y=[-9, 109], mode="lines", line=line, hoverinfo="skip")


def _points(chosen: pl.DataFrame) -> list[go.Scatter]:
    """One trace a kind; trials of one truth stand side by side so that no interval hides another."""
    ordered = chosen.sort("truth", "kind", "case", maintain_order=True).to_dicts()
    places = _dodged([100 * row["truth"] for row in ordered])
    placed = list(zip(ordered, places, strict=True))
    return [
        _marks(kind, [(row, place) for row, place in placed if row["kind"] == kind])
        for kind in MARKS
        if any(row["kind"] == kind for row in ordered)
    ]


def _marks(kind: str, placed: Sequence[tuple[Mapping[str, Any], float]]) -> go.Scatter:
    symbol, ink, filled = MARKS[kind]
    rows = [row for row, _ in placed]
    return go.Scatter(
        x=[place for _, place in placed],
        y=[100 * row["value"] for row in rows],
        mode="markers",
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [_arm(row["high"] - row["value"]) for row in rows],
            "arrayminus": [_arm(row["value"] - row["low"]) for row in rows],
            "color": ink,
            "thickness": 1.4,
            "width": 0,
        },
        marker={"symbol": symbol, "size": 9, "color": ink if filled else PAPER, "line": {"color": ink, "width": 1.6}},
        customdata=[_hover(row) for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _arm(length: float) -> float:
    """An undefined interval has no arm."""
    return 0.0 if math.isnan(length) else 100 * length


def _hover(row: Mapping[str, Any]) -> str:
    span = interval(row["low"], row["high"])
    return plotly_text(f"{row['case']}: estimated {percent(row['value'])} {span}, true {percent(row['truth'])}")


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


def _heading(text: str, suffix: str) -> dict[str, object]:
    lines = textwrap.wrap(text, _LINE, max_lines=2, placeholder=" …")
    return {
        "text": "<br>".join(map(plotly_text, lines)),
        "x": 0,
        "xref": f"x{suffix} domain",
        "xanchor": "left",
        "y": 1,
        "yref": f"y{suffix} domain",
        "yanchor": "bottom",
        "yshift": 6,
        "showarrow": False,
        "align": "left",
        "font": {"size": 13, "color": MUTED},
    }
