"""Feature scatter: every feature by how often it fires and what it does."""

from collections.abc import Callable

import plotly.graph_objects as go
import polars as pl

from elicitation.report.features.captions import SCATTER, FeatureNames, effect_ruler
from elicitation.report.features.tables import FeatureTables, main_effects, ranked_scores
from elicitation.report.kit.canvas import Canvas, blank, quiet_axis
from elicitation.report.kit.markup import plotly_text, shortened
from elicitation.report.kit.palette import INK, MUTED, PAPER, STEERED
from elicitation.report.kit.plot_block import plot_block
from lab.records.numerals import figures, percent

_DRAWN, _NAMED = 2000, 6
_DECADES = (0.01, 0.1, 1.0, 10.0, 100.0)


def scatter_block(ledger: FeatureTables, names: FeatureNames, shown: list[int], level: int) -> str:
    """Firing share against effect, or against ReasonScore where no effect is known; empty where neither is.

    `shown` are the features that have a card.
    """
    placed = _placed(ledger)
    if placed.is_empty():
        return ""
    plot = plot_block(
        "feature-scatter",
        lambda canvas: scatter_figure(ledger, names, shown, canvas),
        says=SCATTER.says,
        caption=f"{SCATTER.below} Filled marks have a card below. {_left_out(ledger, placed)}",
    )
    return f"{SCATTER.head(level)}{plot}"


def scatter_figure(ledger: FeatureTables, names: FeatureNames, shown: list[int], canvas: Canvas) -> go.Figure:
    """One mark a feature that fires; the firing share is on a logarithmic axis."""
    placed = _placed(ledger).head(_DRAWN)
    by_effect = bool(main_effects(ledger.effects).height)
    axis = f"Effect on {names.towards} over {names.over}, nats" if by_effect else "ReasonScore"
    write = effect_ruler(ledger).write

    def says(value: float) -> str:
        return f"{write(value)} nats" if by_effect else f"ReasonScore {figures(value)}"

    figure = blank(canvas, height=420)
    figure.add_hline(y=0, line={"color": MUTED, "width": 1, "dash": "dot"}, layer="below")
    carded = pl.col("feature").is_in(shown)
    figure.add_trace(_marks(placed.filter(~carded), says, n_named=0, filled=False))
    figure.add_trace(_marks(placed.filter(carded), says, n_named=_NAMED if canvas.columns > 1 else 0, filled=True))
    lowest = 100 * min(placed["firing_share"])
    ticks = [tick for tick in _DECADES if tick >= lowest / 3]
    figure.update_xaxes(
        quiet_axis("Share of tokens at which it fires"),
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:g}\u202f%" for tick in ticks],
    )
    title = plotly_text(shortened(axis, 52))
    figure.update_yaxes(quiet_axis(title if canvas.columns > 1 else ""))
    if canvas.columns == 1:
        top = {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "yshift": 6}
        figure.add_annotation(
            **top, showarrow=False, text=plotly_text(shortened(axis, 52)), font={"size": 12, "color": MUTED}
        )
    return figure


def _placed(ledger: FeatureTables) -> pl.DataFrame:
    """Feature, firing share and `y`, strongest first; a feature that never fires has no place."""
    effects = main_effects(ledger.effects)
    scored = ranked_scores(ledger.reason_scores).rename({"score": "y"})
    values = effects.rename({"effect": "y"}) if effects.height else scored
    fires = ledger.firing.filter(pl.col("firing_share") > 0)
    joined = fires.join(values.select("feature", "y"), on="feature")
    return joined.sort(pl.col("y").abs(), "feature", descending=[True, False])


def _left_out(ledger: FeatureTables, placed: pl.DataFrame) -> str:
    silent = ledger.firing.filter(pl.col("firing_share") == 0).height
    without = ledger.firing.height - silent - placed.height
    parts = [f"{silent} that never fire"] if silent else []
    parts += [f"{without} whose value is not known"] if without else []
    parts += [f"all but the {_DRAWN} strongest"] if placed.height > _DRAWN else []
    return f"Not drawn: {', '.join(parts)}." if parts else ""


def _marks(placed: pl.DataFrame, says: Callable[[float], str], *, n_named: int, filled: bool) -> go.Scatter:
    rows = placed.to_dicts()
    return go.Scatter(
        x=[100 * row["firing_share"] for row in rows],
        y=[row["y"] for row in rows],
        mode="markers+text" if n_named else "markers",
        marker={
            "symbol": "circle",
            "size": 10 if filled else 6,
            "color": STEERED if filled else PAPER,
            "line": {"color": PAPER if filled else MUTED, "width": 1},
        },
        text=[str(row["feature"]) if place < n_named else "" for place, row in enumerate(rows)],
        # To either side in turn, so that names of near marks do not meet.
        textposition=["middle right" if place % 2 else "middle left" for place in range(len(rows))],
        textfont={"size": 12, "color": INK},
        cliponaxis=False,
        customdata=[
            f"feature {row['feature']}: {says(row['y'])}, fires at {percent(row['firing_share'], 2)} of tokens"
            for row in rows
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
