"""Feature page: what the features of an SAE are, do and changed, as one HTML file."""

from dataclasses import dataclass

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
from lab.report.provenance_section import TableFile, provenance_section

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
    body = [
        f"<header><h1>{escaped(page.title)}</h1>{answer}{HOW_TO_READ}</header>",
        quality_block(ledger.quality, 2),
        intervention_block(ledger.interventions, names, 2),
        effect_block(ledger, names, 2),
        scatter_block(ledger, names, shown, 2),
        difference_block(ledger, 2),
        probe_block(ledger.label_probes, 2),
        feature_cards(ledger, names, shown, 2),
        f"{PROVENANCE}{provenance_section(page.made_by, page.command, page.files)}",
    ]
    sections = "".join(f"<section>{part}</section>" for part in body if part)
    return document(page.title, sections, WITHOUT_SCRIPTS)
