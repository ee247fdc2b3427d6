"""Feature page: what the features of an SAE are, do and changed, as one HTML file."""

from dataclasses import dataclass

from lab.feature_tables import (
    CONTEXTS,
    DIFFERENCES,
    FEATURE_EFFECTS,
    FIRING,
    INTERVENTIONS,
    LABEL_PROBES,
    LOGIT_EFFECTS,
    SAE_QUALITY,
)
from lab.provenance import Provenance
from lab.report.captions import PROVENANCE
from lab.report.document import document
from lab.report.feature_answer import feature_answer
from lab.report.feature_captions import HOW_TO_READ, WITHOUT_SCRIPTS
from lab.report.feature_cards import feature_cards
from lab.report.feature_differences import difference_block
from lab.report.feature_effects import effect_block
from lab.report.feature_interventions import intervention_block
from lab.report.feature_ledger import FeatureLedger
from lab.report.feature_names import FeatureNames
from lab.report.feature_probes import probe_block
from lab.report.feature_quality import quality_block
from lab.report.feature_ranking import shown_features
from lab.report.feature_scatter import scatter_block
from lab.report.markup import escaped
from lab.report.provenance_section import TableFile, provenance_section, sourced

_CARDS = 12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeaturePage:
    """All that the page needs; every string in it may come from anyone."""

    title: str
    names: FeatureNames
    ledger: FeatureLedger
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
