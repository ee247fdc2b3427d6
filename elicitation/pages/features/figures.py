"""The figures of a page of features: each a pure function from its tables to a plotly figure."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go
import polars as pl

from elicitation.pages.features.tables import (
    FeatureNames,
    FeatureTables,
    ablates,
    method_words,
)
from elicitation.pages.kit import palette
from elicitation.pages.kit.canvas import Canvas, blank, marks, quiet_axis, word
from elicitation.pages.kit.markup import counted, plotly_text, shortened
from elicitation.pages.kit.numerals import Ruler, figures, fixed, interval, percent, points, span
from elicitation.pages.kit.palette import Style, hollow
from elicitation.pages.kit.plots import Dot, dot, dot_plot

SHOWN = 12
"""Rows of the strongest effects and of the largest differences."""
_FEATURE = Style(ink=palette.STEERED, symbol="circle")
_CHOSEN = Style(ink=palette.STEERED, symbol="square")
_ACTED: Mapping[str, tuple[str, Style]] = MappingProxyType(
    {
        "top": ("chosen", _CHOSEN),
        "frequency_matched": ("random", hollow(palette.STEERED)),
        "first_token": ("random first-token", hollow(palette.STEERED, "triangle-up-open")),
    }
)
"""Which features were acted on -> in words, and its look, in reading order."""
_PROBES: Mapping[str, Style] = MappingProxyType(
    {"linear": Style(ink=palette.BASE, symbol="circle"), "sparse": _CHOSEN, "shuffled": hollow(palette.STEERED)}
)
"""Probe -> its look, in reading order."""
_DRAWN, _NAMED = 2000, 6
_DECADES = (0.01, 0.1, 1.0, 10.0, 100.0)


_THREE = partial(fixed, digits=3)
AUROC = Ruler(write=_THREE, span=partial(span, write=_THREE), origin=0.5, most=1.008)
"""From telling nothing apart, 0.5, to telling all."""


def effect_figure(tables: FeatureTables, names: FeatureNames, canvas: Canvas) -> go.Figure:
    """The strongest features by the main method, from the one that pushes most towards to the one against."""
    top = tables.main_effects.head(SHOWN).sort("effect", maintain_order=True)
    axis = f"Effect on {names.towards} over {names.over} by {method_words(top['method'][0])}, nats"
    return _ranked(tables, top.to_dicts(), "effect", tables.effect_ruler, axis, canvas)


def difference_figure(tables: FeatureTables, canvas: Canvas) -> go.Figure:
    """The features that changed most, those that rose on top."""
    axis = "Mean activation, tuned minus base"
    return _ranked(tables, largest_differences(tables)[::-1], "difference", tables.difference_ruler, axis, canvas)


def largest_differences(tables: FeatureTables) -> list[dict[str, Any]]:
    """The rows of `DIFFERENCES` that are shown, those that rose first."""
    largest = tables.ranked_differences.head(SHOWN)
    return largest.sort("difference", descending=True, maintain_order=True).to_dicts()


def _ranked(
    tables: FeatureTables, rows: list[dict[str, Any]], of: str, ruler: Ruler, axis: str, canvas: Canvas
) -> go.Figure:
    names = [tables.named(row["feature"]) for row in rows]
    dots = [
        dot(row, name, _FEATURE, of=of, note=canvas.beside(ruler.said(row, of)))
        for row, name in zip(rows, names, strict=True)
    ]
    return dot_plot(dots, canvas, axis=axis, ruler=ruler)


def probe_figure(label_probes: pl.DataFrame, canvas: Canvas) -> go.Figure:
    """Of each label, the linear probe, the sparse one of most features and its control."""
    widest = label_probes.filter(pl.col("n_features") == pl.col("n_features").max().over("label", "probe"))
    dots = [
        dot(
            row,
            f"{row['label']} · {probe_name(row)}",
            _PROBES.get(row["probe"], _CHOSEN),
            of="auroc",
            note=canvas.beside(AUROC.said(row, "auroc")),
        )
        for row in reversed(ordered_probes(widest))
    ]
    return dot_plot(dots, canvas, axis="AUROC on held-out problems", ruler=AUROC)


def ordered_probes(label_probes: pl.DataFrame) -> list[dict[str, Any]]:
    """Labels as they came, each with its probes in reading order."""
    labels, kinds = label_probes["label"].unique(maintain_order=True).to_list(), list(_PROBES)
    return sorted(
        label_probes.to_dicts(),
        key=lambda row: (
            labels.index(row["label"]),
            kinds.index(row["probe"]) if row["probe"] in kinds else len(kinds),
            row["n_features"],
        ),
    )


def probe_name(row: Mapping[str, Any]) -> str:
    """What a probe reads."""
    reads = {
        "linear": "the whole stream",
        "shuffled": "shuffled control",
        "sparse": counted(row["n_features"], "feature"),
    }
    return reads.get(str(row["probe"]), str(row["probe"]))


def intervention_figure(interventions: pl.DataFrame, names: FeatureNames, canvas: Canvas) -> go.Figure:
    """One row an intervention, each kind of it under the model that it acts on."""
    groups = [[_acted(row, names, canvas) for row in group] for group in intervention_groups(interventions)]
    dots = [dot for group in groups for dot in group][::-1]
    figure = dot_plot(dots, canvas, axis=f"Rate of {names.behaviour}", note_title="change, points")
    heights = iter([mark["y"][0] for mark in figure.to_dict()["data"]][::-1])
    for group in groups:
        own, (top, *_, bottom) = group[0], [next(heights) for _ in group]
        line = {"color": own.style.ink, "width": 1, "dash": "dot"}
        place = 100 * own.value
        figure.add_shape(type="line", x0=place, x1=place, y0=bottom, y1=top, line=line, layer="below")
    return figure


def intervention_groups(interventions: pl.DataFrame) -> list[list[dict[str, Any]]]:
    """Ablations, then additions; the model as it is, then chosen features before random ones of the same dose."""
    order = ["none", *_ACTED]
    ordered = sorted(
        interventions.to_dicts(), key=lambda row: (row["n_features"], row["dose"], order.index(row["features"]))
    )
    groups = [[row for row in ordered if ablates(row) is ablated] for ablated in (True, False)]
    return [group for group in groups if group]


def intervention_name(row: Mapping[str, Any], names: FeatureNames) -> str:
    """`8 chosen features added, dose 2`; the whole of an ablation needs no dose."""
    if row["features"] == "none":
        return f"{names.tuned if ablates(row) else names.base}, untouched"
    which, _ = _ACTED[row["features"]]
    dose = "" if row["dose"] == 1 else f", dose {figures(row['dose'])}"
    return f"{counted(row['n_features'], f'{which} feature')} {'ablated' if ablates(row) else 'added'}{dose}"


def _acted(row: Mapping[str, Any], names: FeatureNames, canvas: Canvas) -> Dot:
    if row["features"] == "none":
        return dot(
            row, intervention_name(row, names), palette.TUNED_STYLE if ablates(row) else palette.BASE_STYLE, of="rate"
        )
    digits = 1 if canvas.note_room else 0
    note = f"{points(row['change'], digits)} {interval(row['change_low'], row['change_high'], digits)}".strip()
    return dot(row, intervention_name(row, names), _ACTED[row["features"]][1], of="rate", note=note)


def scatter_figure(tables: FeatureTables, names: FeatureNames, shown: list[int], canvas: Canvas) -> go.Figure:
    """Firing share against effect, or against ReasonScore where no effect is known; one mark a feature that fires.

    The firing share is on a logarithmic axis. `shown` are the features that have a card.
    """
    placed = placed_features(tables).head(_DRAWN)
    by_effect = bool(tables.main_effects.height)
    axis = f"Effect on {names.towards} over {names.over}, nats" if by_effect else "ReasonScore"
    write = tables.effect_ruler.write

    def says(value: float) -> str:
        return f"{write(value)} nats" if by_effect else f"ReasonScore {figures(value)}"

    figure = blank(canvas, height=420)
    figure.add_hline(y=0, line={"color": palette.MUTED, "width": 1, "dash": "dot"}, layer="below")
    carded = pl.col("feature").is_in(shown)
    figure.add_trace(_marks(placed.filter(~carded), says, n_named=0).update(marker=_UNCARDED))
    figure.add_trace(_marks(placed.filter(carded), says, n_named=_NAMED if canvas.columns > 1 else 0))
    lowest = 100 * min(placed["firing_share"])
    ticks = [tick for tick in _DECADES if tick >= lowest / 3]
    figure.update_xaxes(
        quiet_axis("Share of tokens at which it fires"),
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:g}\u202f%" for tick in ticks],
    )
    title = shortened(axis, 52)
    figure.update_yaxes(quiet_axis(plotly_text(title) if canvas.columns > 1 else ""))
    if canvas.columns == 1:
        top = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "yshift": 6}
        figure.add_annotation(**word(title, 0.0, 1.0, **top))
    return figure


_UNCARDED = {"size": 6, "color": palette.PAPER, "line": {"color": palette.MUTED}}


def placed_features(tables: FeatureTables) -> pl.DataFrame:
    """Feature, firing share and `y`, strongest first; a feature that never fires has no place."""
    effects = tables.main_effects
    scored = tables.ranked_scores.rename({"score": "y"})
    values = effects.rename({"effect": "y"}) if effects.height else scored
    fires = tables.firing.filter(pl.col("firing_share") > 0)
    joined = fires.join(values.select("feature", "y"), on="feature")
    return joined.sort(pl.col("y").abs(), "feature", descending=[True, False])


def left_out(tables: FeatureTables) -> str:
    """Which features have no mark in the scatter; empty where all have one."""
    n_placed, silent = placed_features(tables).height, tables.firing.filter(pl.col("firing_share") == 0).height
    without = tables.firing.height - silent - n_placed
    parts = [f"{silent} that never fire"] if silent else []
    parts += [f"{without} whose value is not known"] if without else []
    parts += [f"all but the {_DRAWN} strongest"] if n_placed > _DRAWN else []
    return f"Not drawn: {', '.join(parts)}." if parts else ""


def _marks(placed: pl.DataFrame, says: Callable[[float], str], *, n_named: int) -> go.Scatter:
    rows = placed.to_dicts()
    said = [
        f"feature {row['feature']}: {says(row['y'])}, fires at {percent(row['firing_share'], 2)} of tokens"
        for row in rows
    ]
    return marks(
        [100 * row["firing_share"] for row in rows],
        [row["y"] for row in rows],
        _FEATURE,
        said,
        size=10,
        mode="markers+text" if n_named else "markers",
        text=[str(row["feature"]) if place < n_named else "" for place, row in enumerate(rows)],
        # To either side in turn, so that names of near marks do not meet.
        textposition=["middle right" if place % 2 else "middle left" for place in range(len(rows))],
        textfont={"size": 12, "color": palette.INK},
        cliponaxis=False,
    )
