"""Feature effects: which features push where, as figure and table."""

import math
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from elicitation.report.features.captions import (
    DIFFERENCES,
    EFFECTS,
    FeatureNames,
    difference_ruler,
    effect_ruler,
    feature_name,
    method_words,
)
from elicitation.report.features.tables import METHODS, FeatureTables, main_effects, ranked_differences
from elicitation.report.kit.canvas import Canvas, Ruler, sheet, with_span
from elicitation.report.kit.dot_plot import Dot, dot_plot
from elicitation.report.kit.markup import escaped
from elicitation.report.kit.palette import STEERED, ArmStyle
from elicitation.report.kit.plot_block import plot_block
from lab.records.numerals import ABSENT, signed

_SHOWN = 12
_STYLE = ArmStyle(ink=STEERED, symbol="circle", dash="solid", faint=False)


def effect_block(ledger: FeatureTables, names: FeatureNames, level: int) -> str:
    """Figure and table of the strongest `FEATURE_EFFECTS`; empty where there are none."""
    if main_effects(ledger.effects).is_empty():
        return ""
    caption = EFFECTS
    plot = plot_block(
        "feature-effects", lambda canvas: effect_figure(ledger, names, canvas), says=caption.says, caption=caption.below
    )
    return f"{caption.head(level)}{plot}{effect_table(ledger)}"


def effect_figure(ledger: FeatureTables, names: FeatureNames, canvas: Canvas) -> go.Figure:
    """The strongest features by the main method, from the one that pushes most towards to the one against."""
    top = main_effects(ledger.effects).head(_SHOWN).sort("effect", maintain_order=True)
    ruler = effect_ruler(ledger)
    dots = [_dot(row, ledger.logit_effects, ruler, canvas) for row in top.iter_rows(named=True)]
    method = method_words(top["method"][0])
    axis = f"Effect on {names.towards} over {names.over} by {method}, nats"
    return dot_plot(dots, canvas, axis=axis, ruler=ruler)


def effect_table(ledger: FeatureTables) -> str:
    """The same features by every method there is."""
    main = main_effects(ledger.effects).head(_SHOWN)
    present = set(ledger.effects["method"])
    methods = [*(method for method in METHODS if method in present), *sorted(present - set(METHODS))]
    cells = {(row["feature"], row["method"]): row for row in ledger.effects.iter_rows(named=True)}
    rows = [
        (
            escaped(feature_name(row["feature"], ledger.logit_effects)),
            *(_cell(cells.get((row["feature"], method)), effect_ruler(ledger)) for method in methods),
            str(row["n_texts"]),
        )
        for row in main.sort("effect", descending=True, maintain_order=True).iter_rows(named=True)
    ]
    return sheet(("", *(f"By {method_words(method)}, nats" for method in methods), "Texts in which active"), rows)


def _dot(row: Mapping[str, Any], logit_effects: pl.DataFrame, ruler: Ruler, canvas: Canvas) -> Dot:
    note = f"{ruler.write(row['effect'])} {ruler.span(row['low'], row['high'])}".rstrip() if canvas.note_room else ""
    name = feature_name(row["feature"], logit_effects)
    return Dot(name=name, value=row["effect"], low=row["low"], high=row["high"], style=_STYLE, note=note)


def _cell(row: Mapping[str, Any] | None, ruler: Ruler) -> str:
    if row is None:
        return with_span(ABSENT, "not measured")
    return with_span(ruler.write(row["effect"]), ruler.span(row["low"], row["high"]))


_N_DIFFERENCES = 12
_DIFFERENCE_STYLE = ArmStyle(ink=STEERED, symbol="circle", dash="solid", faint=False)


def difference_block(ledger: FeatureTables, level: int) -> str:
    """Figure and table of the largest `DIFFERENCES`; empty where there are none."""
    if ranked_differences(ledger.differences).is_empty():
        return ""
    caption = DIFFERENCES
    plot = plot_block(
        "feature-differences",
        lambda canvas: difference_figure(ledger, canvas),
        says=caption.says,
        caption=caption.below,
    )
    return f"{caption.head(level)}{plot}{difference_table(ledger)}"


def difference_figure(ledger: FeatureTables, canvas: Canvas) -> go.Figure:
    """The features that changed most, those that rose on top."""
    ruler = difference_ruler(ledger)
    dots = [_difference_dot(row, ledger, ruler, canvas) for row in reversed(_largest(ledger))]
    return dot_plot(dots, canvas, axis="Mean activation, tuned minus base", ruler=ruler)


def difference_table(ledger: FeatureTables) -> str:
    """The same features with both means."""
    ruler = difference_ruler(ledger)
    rows = [
        (
            escaped(feature_name(row["feature"], ledger.logit_effects)),
            ruler.write(row["base_mean"]).removeprefix("+"),
            ruler.write(row["tuned_mean"]).removeprefix("+"),
            with_span(ruler.write(row["difference"]), ruler.span(row["low"], row["high"])),
            with_span(ABSENT, "does not vary") if math.isnan(row["effect_size"]) else signed(row["effect_size"], 2),
        )
        for row in _largest(ledger)
    ]
    headings = ("", "Mean in the base", "Mean in the tuned", "Difference", "In standard deviations")
    return sheet(headings, rows)


def _largest(ledger: FeatureTables) -> list[dict[str, Any]]:
    largest = ranked_differences(ledger.differences).head(_N_DIFFERENCES)
    return largest.sort("difference", descending=True, maintain_order=True).to_dicts()


def _difference_dot(row: Mapping[str, Any], ledger: FeatureTables, ruler: Ruler, canvas: Canvas) -> Dot:
    note = (
        f"{ruler.write(row['difference'])} {ruler.span(row['low'], row['high'])}".rstrip() if canvas.note_room else ""
    )
    name = feature_name(row["feature"], ledger.logit_effects)
    return Dot(name=name, value=row["difference"], low=row["low"], high=row["high"], style=_DIFFERENCE_STYLE, note=note)
