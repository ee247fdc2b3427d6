"""Feature page: what the features of an SAE are, do and changed, as one HTML file."""

from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from elicitation.pages.features import figures, sheets
from elicitation.pages.features.answer import feature_answer
from elicitation.pages.features.tables import FeatureNames, FeatureTables, shown_features
from elicitation.pages.kit.canvas import plot_block
from elicitation.pages.kit.document import Origin, document
from elicitation.pages.kit.markup import filled
from elicitation.pages.kit.tokens import activation_legend


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
    shown = shown_features(tables, n_cards)
    return {
        "plot_block": plot_block,
        "answer": feature_answer(tables, names),
        "saes": tables.quality["sae"].to_list(),
        "quality": sheets.quality_table(tables.quality),
        "interventions": sheets.intervention_table(tables.interventions, names),
        "draw_interventions": partial(figures.intervention_figure, tables.interventions, names),
        "effects": sheets.effect_table(tables),
        "draw_effects": partial(figures.effect_figure, tables, names),
        "placed": figures.placed_features(tables).height,
        "left_out": figures.left_out(tables),
        "draw_scatter": partial(figures.scatter_figure, tables, names, shown),
        "differences": sheets.difference_table(tables),
        "draw_differences": partial(figures.difference_figure, tables),
        "probes": sheets.probe_table(tables.label_probes),
        "draw_probes": partial(figures.probe_figure, tables.label_probes),
        "legend": activation_legend() if tables.contexts.height else "",
        "cards": sheets.feature_cards(tables, names, shown),
    }
