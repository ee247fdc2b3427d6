"""Feature page: what the features of an SAE are, do and changed, in one sentence and as one HTML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.pages.features import figures as plots
from elicitation.pages.features import sheets
from elicitation.pages.features.tables import (
    FeatureNames,
    FeatureTables,
    ablates,
    method_words,
)
from elicitation.pages.kit.canvas import plot_block
from elicitation.pages.kit.document import Origin, document
from elicitation.pages.kit.markup import filled
from elicitation.pages.kit.numerals import PERCENT, figures
from elicitation.pages.kit.tokens import activation_legend

_CONTROLS = {
    "frequency_matched": "with random ones that fire as often it is",
    "first_token": "with random ones that fire as often where the answer begins,",
}


def feature_answer(tables: FeatureTables, names: FeatureNames) -> str:
    """One sentence on the strongest kind of evidence that there is: interventions, effects, differences, scores."""
    if tables.interventions.height:
        return _intervened(tables.interventions, names)
    n = max(table["feature"].n_unique() for table in (tables.effects, tables.differences, tables.reason_scores))
    for row in tables.main_effects.head(1).iter_rows(named=True):
        ruler, side = tables.effect_ruler, names.towards if row["effect"] > 0 else names.over
        pushes = f"{ruler.write(row['effect'])} nats {ruler.span(row['low'], row['high'])}".rstrip()
        return (
            f"Of {n} features, feature {row['feature']} pushes hardest, towards {side}: {pushes} by "
            f"{method_words(row['method'])}; no feature was acted on while a model wrote."
        )
    for row in tables.ranked_differences.head(1).iter_rows(named=True):
        return (
            f"Of {n} features, feature {row['feature']} changed most from {names.base} to {names.tuned}: its mean "
            f"activation by {tables.difference_ruler.said(row, 'difference')}; what it does was not measured."
        )
    for row in tables.ranked_scores.head(1).iter_rows(named=True):
        return (
            f"Of {n} features, feature {row['feature']} has the highest ReasonScore, "
            f"{figures(row['score'])}; what it does was not measured."
        )
    for row in tables.quality.head(1).iter_rows(named=True):
        return (
            f"The {row['d_sae']} features of {row['sae']} keep {PERCENT.said(row, 'ce_recovered')} of what the model's "
            f"predictions need of {row['site']}; what single features do was not measured."
        )
    return "Nothing was measured of the features."


def _intervened(interventions: pl.DataFrame, names: FeatureNames) -> str:
    """The intervention whose dose is nearest to 1, of the most features: fixed before any rate is seen."""
    parts = []
    for ablated in (True, False):
        rows = [row for row in interventions.to_dicts() if ablates(row) is ablated]
        top = [row for row in rows if row["features"] == "top"]
        own = next((row for row in rows if row["features"] == "none"), None)
        if not top or own is None:
            continue
        chosen = min(top, key=lambda row: (abs(row["dose"] - 1), -row["n_features"]))
        same = ("n_features", "dose")
        others = {row["features"]: row for row in rows if all(row[key] == chosen[key] for key in same)}
        parts.append(_part(chosen, own, others, names, again=bool(parts)))
    return "; ".join(parts) + "." if parts else "Only random features were acted on."


def _part(
    row: Mapping[str, Any],
    own: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
    names: FeatureNames,
    *,
    again: bool,
) -> str:
    n, model = row["n_features"], names.tuned if ablates(row) else names.base
    which = f"the {n} features that push" if n > 1 else "the feature that pushes"
    whom = ("them" if n > 1 else "it") if again else f"{which} most towards {names.towards}"
    verb = "ablating" if ablates(row) else "adding"
    dose = "" if row["dose"] == 1 else f" at dose {figures(row['dose'])}"
    acted = f"{verb if again else verb.capitalize()} {whom}{dose}"
    moved = f"from {PERCENT.said(own, 'rate')} to {PERCENT.said(row, 'rate')}"
    controls = [
        f"{words} {PERCENT.said(others[which], 'rate')}" for which, words in _CONTROLS.items() if which in others
    ]
    control = ", ".join(controls) or "no random ones were tried beside"
    if ablates(row):
        return f"{acted} {_does(row)} the rate of {names.behaviour} in {model} {moved} ({control})"
    rate = "it" if again else f"the rate of {names.behaviour}"
    return f"{acted} to {model} {_does(row)} {rate} {moved} ({control})"


def _does(row: Mapping[str, Any]) -> str:
    """A change is named only where its interval leaves out 0."""
    if row["change_high"] < 0:
        return "lowers"
    return "raises" if row["change_low"] > 0 else "does not clearly change"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeaturePage:
    """All that the page needs; every string in it may come from anyone."""

    title: str
    names: FeatureNames
    tables: FeatureTables
    origin: Origin


def render_features(page: FeaturePage, *, n_cards: int = 12) -> str:
    """The page as HTML; equal pages give equal text."""
    return document("features/page.html", page.title, page.origin, **_shown(page.tables, page.names, n_cards))


def feature_section(tables: FeatureTables, names: FeatureNames, *, n_cards: int = 3) -> Markup:
    """The answer, the SAE, the interventions and the strongest features, under one heading of level 2."""
    return filled("features/section.html", **_shown(tables, names, n_cards))


def _shown(tables: FeatureTables, names: FeatureNames, n_cards: int) -> dict[str, object]:
    """The values of the templates."""
    shown = tables.shown(n_cards)
    return {
        "plot_block": plot_block,
        "answer": feature_answer(tables, names),
        "saes": tables.quality["sae"].to_list(),
        "quality": sheets.quality_table(tables.quality),
        "interventions": sheets.intervention_table(tables.interventions, names),
        "draw_interventions": partial(plots.intervention_figure, tables.interventions, names),
        "effects": sheets.effect_table(tables),
        "draw_effects": partial(plots.effect_figure, tables, names),
        "placed": plots.placed_features(tables).height,
        "left_out": plots.left_out(tables),
        "draw_scatter": partial(plots.scatter_figure, tables, names, shown),
        "differences": sheets.difference_table(tables),
        "draw_differences": partial(plots.difference_figure, tables),
        "probes": sheets.probe_table(tables.label_probes),
        "draw_probes": partial(plots.probe_figure, tables.label_probes),
        "legend": activation_legend() if tables.contexts.height else "",
        "cards": sheets.feature_cards(tables, names, shown),
    }
