"""Feature differences: what tuning changed in the features' activations, as figure and table."""

import math
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from lab.report.canvas import Canvas
from lab.report.dot_plot import Dot, dot_plot
from lab.report.feature_captions import DIFFERENCES
from lab.report.feature_ledger import FeatureLedger
from lab.report.feature_ranking import ranked_differences
from lab.report.feature_rulers import difference_ruler
from lab.report.feature_words import feature_name
from lab.report.markup import escaped
from lab.report.numerals import ABSENT, signed
from lab.report.palette import STEERED, ArmStyle
from lab.report.plot_block import plot_block
from lab.report.ruler import Ruler
from lab.report.sheet import sheet, with_span

_SHOWN = 12
_STYLE = ArmStyle(ink=STEERED, symbol="circle", dash="solid", faint=False)


def difference_block(ledger: FeatureLedger, level: int) -> str:
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


def difference_figure(ledger: FeatureLedger, canvas: Canvas) -> go.Figure:
    """The features that changed most, those that rose on top."""
    ruler = difference_ruler(ledger)
    dots = [_dot(row, ledger, ruler, canvas) for row in reversed(_largest(ledger))]
    return dot_plot(dots, canvas, axis="Mean activation, tuned minus base", ruler=ruler)


def difference_table(ledger: FeatureLedger) -> str:
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


def _largest(ledger: FeatureLedger) -> list[dict[str, Any]]:
    largest = ranked_differences(ledger.differences).head(_SHOWN)
    return largest.sort("difference", descending=True, maintain_order=True).to_dicts()


def _dot(row: Mapping[str, Any], ledger: FeatureLedger, ruler: Ruler, canvas: Canvas) -> Dot:
    note = (
        f"{ruler.write(row['difference'])} {ruler.span(row['low'], row['high'])}".rstrip() if canvas.note_room else ""
    )
    name = feature_name(row["feature"], ledger.logit_effects)
    return Dot(name=name, value=row["difference"], low=row["low"], high=row["high"], style=_STYLE, note=note)
