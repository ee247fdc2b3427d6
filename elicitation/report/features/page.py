"""Feature page: what the features of an SAE are, do and changed, as one HTML file."""

from dataclasses import dataclass

from elicitation.report.features.answer import feature_answer
from elicitation.report.features.captions import HOW_TO_READ, SECTION, WITHOUT_SCRIPTS, FeatureNames
from elicitation.report.features.cards import feature_cards
from elicitation.report.features.effects import difference_block, effect_block
from elicitation.report.features.interventions import intervention_block
from elicitation.report.features.probes import probe_block, quality_block
from elicitation.report.features.scatter import scatter_block
from elicitation.report.features.tables import FeatureTables, shown_features
from elicitation.report.kit.document import document
from elicitation.report.kit.markup import escaped
from elicitation.report.kit.provenance_section import TableFile, provenance_section, sourced
from elicitation.report.study.captions import PROVENANCE
from lab.records.provenance import Provenance
from probes.tables import (
    CONTEXTS,
    DIFFERENCES,
    FEATURE_EFFECTS,
    FIRING,
    INTERVENTIONS,
    LABEL_PROBES,
    LOGIT_EFFECTS,
    SAE_QUALITY,
)

_CARDS = 12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeaturePage:
    """All that the page needs; every string in it may come from anyone."""

    title: str
    names: FeatureNames
    ledger: FeatureTables
    made_by: Provenance
    command: str
    """What to type to make the page again."""
    files: tuple[TableFile, ...]


def render_features(page: FeaturePage) -> str:
    """The page as HTML; equal pages give equal text."""
    ledger, names = page.ledger, page.names
    answer = f'<p class="answer">{escaped(feature_answer(ledger, names))}</p>'
    shown = shown_features(ledger, _CARDS)
    parts = [
        sourced(quality_block(ledger.quality, 2), page.files, SAE_QUALITY.name),
        sourced(intervention_block(ledger.interventions, names, 2), page.files, INTERVENTIONS.name),
        sourced(effect_block(ledger, names, 2), page.files, FEATURE_EFFECTS.name),
        sourced(scatter_block(ledger, names, shown, 2), page.files, FEATURE_EFFECTS.name, FIRING.name),
        sourced(difference_block(ledger, 2), page.files, DIFFERENCES.name),
        sourced(probe_block(ledger.label_probes, 2), page.files, LABEL_PROBES.name),
        sourced(feature_cards(ledger, names, shown, 2), page.files, FIRING.name, CONTEXTS.name, LOGIT_EFFECTS.name),
        f"{PROVENANCE}{provenance_section(page.made_by, page.command, page.files)}",
    ]
    return document(page.title, f"{answer}{HOW_TO_READ}", parts, WITHOUT_SCRIPTS)


def feature_section(ledger: FeatureTables, names: FeatureNames, *, n_cards: int = 3) -> str:
    """The answer, the SAE, the interventions and the strongest features, as HTML under one heading of level 2."""
    return "".join(
        (
            SECTION,
            f'<p class="lead">{escaped(feature_answer(ledger, names))}</p>{HOW_TO_READ}',
            quality_block(ledger.quality, 3),
            intervention_block(ledger.interventions, names, 3),
            feature_cards(ledger, names, shown_features(ledger, n_cards), 3),
        )
    )
