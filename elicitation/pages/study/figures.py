"""The figures of a study's report: each a pure function from a table to a plotly figure."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import plotly.graph_objects as go
import polars as pl

from elicitation.pages.kit.canvas import WIDE, Canvas
from elicitation.pages.kit.markup import shortened
from elicitation.pages.kit.numerals import WHOLE, percent
from elicitation.pages.kit.palette import (
    ASSISTED,
    BASE_STYLE,
    MUTED,
    RANKED,
    STEERED,
    TUNED_STYLE,
    VIOLET,
    Style,
    completed,
    hollow,
)
from elicitation.pages.kit.plots import Horizontal, curve_panels, dot, dot_plot, mark_gain
from elicitation.pages.study.tables import rungs

LOOKS: Mapping[str, Style] = MappingProxyType(
    {
        "prompt": Style(ink=RANKED[1], symbol="square"),
        "decoding": Style(ink=RANKED[2], symbol="triangle-up"),
        "vector": Style(ink=STEERED, symbol="pentagon"),
        "own router": Style(ink=RANKED[3], symbol="star"),
        "tuned router": Style(ink=ASSISTED, symbol="triangle-down"),
        "selector": Style(ink=ASSISTED, symbol="hexagon"),
        "takeover": Style(ink=ASSISTED, symbol="cross"),
        "published": Style(ink=VIOLET, symbol="x"),
    }
)
"""Kind of help -> its look; pink is help from the tuned model at test time, violet a published method."""
UNKNOWN = Style(ink=MUTED, symbol="circle")
"""The look of a kind that has none."""
NO_STYLES: Mapping[str, Style] = MappingProxyType({})
"""Inks in order of appearance; `arm_styles(ladder)` gives the ones that match the ladder."""
CHECKED = {"strict": "Strict: right by a valid process", "answer": "Answer only"}
UNCHECKED = {"answer": "Answer"}
"""The only panel of a task whose process cannot be checked: its strict curves are its answer curves."""


def arm_styles(ladder: pl.DataFrame) -> dict[str, Style]:
    """The style of every arm of a ladder: ends black and vermilion, rungs by kind of help, a control as its rung."""
    arms = ladder.unique("arm", keep="first", maintain_order=True).sort("order", maintain_order=True)
    ends = arms.filter(pl.col("kind") == "end")["arm"]
    styles = dict(zip(ends, (BASE_STYLE, TUNED_STYLE), strict=False))
    for arm, family in arms.filter(pl.col("kind") == "rung").select("arm", "family").iter_rows():
        styles[arm] = LOOKS.get(family, UNKNOWN)
    for arm, rung in arms.filter(pl.col("kind") == "control").select("arm", "control_of").iter_rows():
        styles[arm] = hollow(styles.get(rung, UNKNOWN).ink)
    return styles


def ladder_figure(ladder: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """Strict pass@1 of every arm, the base at the bottom, the tuned model at the top.

    >>> pair, task = el.pair("zero-base", "zero-rl"), el.task("chain", n=8)
    >>> el.ladder_figure(el.ladder(pair, task, el.sample(pair, task), {})).layout.xaxis.title.text
    'Problems solved at the first try, strict'
    """
    styles, dots = arm_styles(ladder), []
    rows = rungs(ladder, "strict")
    for row in rows.iter_rows(named=True):
        share = "" if row["kind"] == "end" or math.isnan(row["share"]) else WHOLE.said(row, "share")
        note = share if row["refusal"] is None or row["kind"] == "end" else "refused"
        dots.append(dot(row, row["label"], styles[row["arm"]], of="accuracy", note=note))
    figure = dot_plot(dots, canvas, axis="Problems solved at the first try, strict", note_title="share of the gain")
    base, tuned = rows.filter(pl.col("kind") == "end")["accuracy"]
    mark_gain(figure, base, tuned, canvas)
    return figure


def guess_figure(guess: pl.DataFrame, canvas: Canvas = WIDE, styles: Mapping[str, Style] = NO_STYLES) -> go.Figure:
    """Answer-only accuracy against the answers of other problems."""
    inks = completed(styles, guess["arm"])
    dots = [dot(row, row["label"], inks[row["arm"]]) for row in guess.iter_rows(named=True)]
    return dot_plot(dots, canvas, axis="Right by guessing, answer only")


def _horizontal(column: str, frame: pl.DataFrame) -> Horizontal:
    """The axis of the tries, of the reliabilities, or of families: in the order of the table, with names cut to fit."""
    values = frame[column].unique(maintain_order=True).to_list()
    if column == "k":
        places = {k: math.log2(k) for k in sorted(values)}
        # Each step on the axis doubles k.
        ticks = [(place, str(k)) for k, place in places.items() if place.is_integer()]
        return Horizontal(column="k", title="Tries allowed, k", positions=places, ticks=ticks)
    if column == "tau":
        ticks = [(tau / 4, percent(tau / 4, 0)) for tau in range(5)]
        places = {tau: float(tau) for tau in values}
        return Horizontal(column="tau", title="Reliability asked for, τ", positions=places, ticks=ticks)
    room = max(3, 52 // max(len(values), 1))
    ticks = [(float(index), shortened(name, room)) for index, name in enumerate(values)]
    places = {name: float(index) for index, name in enumerate(values)}
    return Horizontal(column="family", title="", positions=places, ticks=ticks, spread="bars")


_CURVES = {"k": "Problems solved", "tau": "Problems solved so often", "family": "Solved at the first try"}
"""Column of the horizontal axis -> title of the vertical one."""


def curve_figure(
    column: str,
    frame: pl.DataFrame,
    canvas: Canvas = WIDE,
    styles: Mapping[str, Style] = NO_STYLES,
    *,
    process_checked: bool = True,
) -> go.Figure:
    """`PASS_AT_K` by `k`, `COVER` by `tau`, or `FAMILIES` by `family`; one line an arm."""
    titles, axis = CHECKED if process_checked else UNCHECKED, _CURVES[column]
    return curve_panels(frame, _horizontal(column, frame), canvas, styles, by="arm", titles=titles, axis=axis)
