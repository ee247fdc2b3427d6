"""Feature interventions: what acting on features does to what the models write, as figure and table."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from elicitation.report.features.captions import INTERVENTIONS, FeatureNames
from elicitation.report.kit.canvas import Canvas, sheet, with_span
from elicitation.report.kit.dot_plot import Dot, dot_plot
from elicitation.report.kit.markup import escaped
from elicitation.report.kit.palette import BASE, STEERED, TUNED, ArmStyle
from elicitation.report.kit.plot_block import plot_block
from lab.records.numerals import ABSENT, figures, interval, percent, points

_STYLES = {
    "top": ArmStyle(ink=STEERED, symbol="square", dash="solid", faint=False),
    "frequency_matched": ArmStyle(ink=STEERED, symbol="circle-open", dash="dot", faint=True),
    "first_token": ArmStyle(ink=STEERED, symbol="triangle-up-open", dash="dot", faint=True),
}
_WORDS = {"top": "chosen", "frequency_matched": "random", "first_token": "random opening"}
_TUNED = ArmStyle(ink=TUNED, symbol="diamond", dash="solid", faint=False)
_BASE = ArmStyle(ink=BASE, symbol="circle", dash="solid", faint=False)


def ablates(row: Mapping[str, Any]) -> bool:
    """Whether a row of `INTERVENTIONS` switches features off in the tuned model; else it adds them to the base."""
    return str(row["intervention"]).startswith("ablat")


def intervention_block(interventions: pl.DataFrame, names: FeatureNames, level: int) -> str:
    """Figure and table of `INTERVENTIONS`; empty where there are none."""
    if interventions.is_empty():
        return ""
    caption = INTERVENTIONS
    plot = plot_block(
        "feature-interventions",
        lambda canvas: intervention_figure(interventions, names, canvas),
        says=caption.says,
        caption=caption.below,
    )
    return f"{caption.head(level)}{plot}{intervention_table(interventions, names)}"


def intervention_figure(interventions: pl.DataFrame, names: FeatureNames, canvas: Canvas) -> go.Figure:
    """One row an intervention, each kind of it under the model that it acts on."""
    groups = [[_dot(row, names, canvas) for row in group] for group in _groups(interventions)]
    dots = [dot for group in groups for dot in group][::-1]
    figure = dot_plot(dots, canvas, axis=f"Rate of {names.behaviour}", note_title="change, points")
    heights = iter([mark["y"][0] for mark in figure.to_dict()["data"]][::-1])
    for group in groups:
        own, (top, *_, bottom) = group[0], [next(heights) for _ in group]
        line = {"color": own.style.ink, "width": 1, "dash": "dot"}
        place = 100 * own.value
        figure.add_shape(type="line", x0=place, x1=place, y0=bottom, y1=top, line=line, layer="below")
    return figure


def intervention_table(interventions: pl.DataFrame, names: FeatureNames) -> str:
    """Every row of `INTERVENTIONS`."""
    rows = []
    for group in _groups(interventions):
        rows += [_row(row, names) for row in group]
    headings = ("", "Active where the answer begins", f"Rate of {names.behaviour}", "Change, points")
    return sheet((*headings, "Chosen minus random, points"), rows)


def _groups(interventions: pl.DataFrame) -> list[list[dict[str, Any]]]:
    """Ablations, then additions; the model as it is, then chosen features before random ones of the same dose."""
    order = ["none", *_STYLES]
    ordered = sorted(
        interventions.to_dicts(), key=lambda row: (row["n_features"], row["dose"], order.index(row["features"]))
    )
    groups = [[row for row in ordered if ablates(row) is ablated] for ablated in (True, False)]
    return [group for group in groups if group]


def _dot(row: Mapping[str, Any], names: FeatureNames, canvas: Canvas) -> Dot:
    digits = 1 if canvas.note_room else 0
    note = f"{points(row['change'], digits)} {interval(row['change_low'], row['change_high'], digits)}".strip()
    return Dot(
        name=_name(row, names),
        value=row["rate"],
        low=row["low"],
        high=row["high"],
        style=_style(row),
        note="" if row["features"] == "none" else note,
    )


def _style(row: Mapping[str, Any]) -> ArmStyle:
    if row["features"] == "none":
        return _TUNED if ablates(row) else _BASE
    return _STYLES[row["features"]]


def _name(row: Mapping[str, Any], names: FeatureNames) -> str:
    """`8 chosen features added, dose 2`; the whole of an ablation needs no dose."""
    if row["features"] == "none":
        return f"{names.tuned if ablates(row) else names.base}, untouched"
    n = row["n_features"]
    done = "ablated" if ablates(row) else "added"
    dose = "" if row["dose"] == 1 else f", dose {figures(row['dose'])}"
    return f"{n} {_WORDS[row['features']]} feature{'' if n == 1 else 's'} {done}{dose}"


def _row(row: Mapping[str, Any], names: FeatureNames) -> tuple[str, ...]:
    rate = with_span(percent(row["rate"]), interval(row["low"], row["high"]))
    if row["features"] == "none":
        return f"<b>{escaped(_name(row, names))}</b>", ABSENT, rate, with_span(ABSENT, "as it is"), ABSENT
    beyond = interval(row["beyond_low"], row["beyond_high"])
    return (
        escaped(_name(row, names)),
        percent(row["active_share"], 0),
        rate,
        with_span(points(row["change"]), interval(row["change_low"], row["change_high"])),
        with_span(points(row["beyond"]), beyond) if row["features"] != "top" else ABSENT,
    )
