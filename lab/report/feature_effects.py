"""Feature effects: which features push where, as figure and table."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from lab.report.canvas import Canvas
from lab.report.dot_plot import Dot, dot_plot
from lab.report.feature_captions import EFFECTS
from lab.report.feature_ledger import FeatureLedger
from lab.report.feature_names import FeatureNames
from lab.report.feature_ranking import METHODS, main_effects
from lab.report.feature_rulers import effect_ruler
from lab.report.feature_words import feature_name, method_words
from lab.report.markup import escaped
from lab.report.numerals import ABSENT
from lab.report.palette import STEERED, ArmStyle
from lab.report.plot_block import plot_block
from lab.report.ruler import Ruler
from lab.report.sheet import sheet, with_span

_SHOWN = 12
_STYLE = ArmStyle(ink=STEERED, symbol="circle", dash="solid", faint=False)


def effect_block(ledger: FeatureLedger, names: FeatureNames, level: int) -> str:
    """Figure and table of the strongest `FEATURE_EFFECTS`; empty where there are none."""
    if main_effects(ledger.effects).is_empty():
        return ""
    caption = EFFECTS
    plot = plot_block(
        "feature-effects", lambda canvas: effect_figure(ledger, names, canvas), says=caption.says, caption=caption.below
    )
    return f"{caption.head(level)}{plot}{effect_table(ledger)}"


def effect_figure(ledger: FeatureLedger, names: FeatureNames, canvas: Canvas) -> go.Figure:
    """The strongest features by the main method, from the one that pushes most towards to the one against."""
    top = main_effects(ledger.effects).head(_SHOWN).sort("effect", maintain_order=True)
    ruler = effect_ruler(ledger)
    dots = [_dot(row, ledger.logit_effects, ruler, canvas) for row in top.iter_rows(named=True)]
    method = method_words(top["method"][0])
    axis = f"Effect on {names.towards} over {names.over} by {method}, nats"
    return dot_plot(dots, canvas, axis=axis, ruler=ruler)


def effect_table(ledger: FeatureLedger) -> str:
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
