"""The figures of a report: each a pure function from a table of the ledger to a plotly figure."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go
import polars as pl

from elicitation.report.kit.canvas import WIDE, Canvas
from elicitation.report.kit.curve_panels import Horizontal, curve_panels
from elicitation.report.kit.dot_plot import Dot, dot_plot, mark_gain
from elicitation.report.kit.palette import ArmStyle, arm_styles, completed
from elicitation.report.study.record_words import rungs
from lab.records.numerals import interval, percent

NO_STYLES: Mapping[str, ArmStyle] = MappingProxyType({})
"""Inks in order of appearance; `palette.arm_styles(ladder)` gives the ones that match the ladder."""


def ladder_figure(ladder: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """Strict pass@1 of every arm, the base at the bottom, the tuned model at the top.

    >>> pair, task = el.pair("zero-base", "zero-rl"), el.task("chain", n=8)
    >>> el.ladder_figure(el.ladder(pair, task, el.sample(pair, task), {})).layout.xaxis.title.text
    'Problems solved at the first try, strict'
    """
    styles = arm_styles(ladder)
    rows = rungs(ladder, "strict")
    dots = [_dot(row, styles, value="accuracy", note=_share(row)) for row in rows.iter_rows(named=True)]
    figure = dot_plot(dots, canvas, axis="Problems solved at the first try, strict", note_title="share of the gain")
    base, tuned = rows.filter(pl.col("kind") == "end")["accuracy"]
    mark_gain(figure, base, tuned, canvas)
    return figure


def guess_figure(guess: pl.DataFrame, canvas: Canvas = WIDE, styles: Mapping[str, ArmStyle] = NO_STYLES) -> go.Figure:
    """Answer-only accuracy against the answers of other problems."""
    inks = completed(styles, guess["arm"])
    dots = [_dot(row, inks, value="value", note="") for row in guess.iter_rows(named=True)]
    return dot_plot(dots, canvas, axis="Right by guessing, answer only")


def pass_at_k_figure(
    pass_at_k: pl.DataFrame,
    canvas: Canvas = WIDE,
    styles: Mapping[str, ArmStyle] = NO_STYLES,
    *,
    process_checked: bool = True,
) -> go.Figure:
    """Problems solved within k tries; each step on the axis doubles k."""
    ks = sorted(pass_at_k["k"].unique())
    places = {k: math.log2(k) for k in ks}
    powers = [k for k in ks if math.log2(k).is_integer()]
    ticks = [(places[k], str(k)) for k in powers]
    horizontal = Horizontal(column="k", title="Tries allowed, k", positions=places, ticks=ticks, spread="band")
    return curve_panels(pass_at_k, horizontal, canvas, styles, axis="Problems solved", process_checked=process_checked)


def cover_figure(
    cover: pl.DataFrame,
    canvas: Canvas = WIDE,
    styles: Mapping[str, ArmStyle] = NO_STYLES,
    *,
    process_checked: bool = True,
) -> go.Figure:
    """Problems solved in at least a fraction tau of samples."""
    ticks = [(tau / 4, percent(tau / 4, 0)) for tau in range(5)]
    places = {tau: float(tau) for tau in cover["tau"].unique()}
    horizontal = Horizontal(
        column="tau", title="Reliability asked for, τ", positions=places, ticks=ticks, spread="band"
    )
    return curve_panels(
        cover, horizontal, canvas, styles, axis="Problems solved so often", process_checked=process_checked
    )


def family_figure(
    families: pl.DataFrame,
    canvas: Canvas = WIDE,
    styles: Mapping[str, ArmStyle] = NO_STYLES,
    *,
    process_checked: bool = True,
) -> go.Figure:
    """Pass@1 inside each family of problems, in the order of the table."""
    names = families["family"].unique(maintain_order=True).to_list()
    places: dict[object, float] = {name: float(index) for index, name in enumerate(names)}
    shown = _short([str(name) for name in names])
    ticks = [(float(index), text) for index, text in enumerate(shown)]
    horizontal = Horizontal(column="family", title="", positions=places, ticks=ticks, spread="bars")
    return curve_panels(
        families, horizontal, canvas, styles, axis="Solved at the first try", process_checked=process_checked
    )


def _dot(row: Mapping[str, Any], styles: Mapping[str, ArmStyle], *, value: str, note: str) -> Dot:
    return Dot(
        name=row["label"], value=row[value], low=row["low"], high=row["high"], style=styles[row["arm"]], note=note
    )


def _share(row: Mapping[str, Any]) -> str:
    if row["kind"] == "end":
        return ""
    if row["refusal"] is not None:
        return "refused"
    share = row["share"]
    return "" if math.isnan(share) else f"{percent(share, 0)} {interval(row['share_low'], row['share_high'], 0)}"


def _short(names: list[str]) -> list[str]:
    """Names cut so that all fit beside each other."""
    room = max(3, 52 // max(len(names), 1))
    return [name if len(name) <= room else f"{name[: room - 1]}…" for name in names]
