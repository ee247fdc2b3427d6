"""Feature section: the short version of what is known of the features, for a study's report."""

from lab.report.feature_answer import feature_answer
from lab.report.feature_captions import HOW_TO_READ, SECTION
from lab.report.feature_cards import feature_cards
from lab.report.feature_interventions import intervention_block
from lab.report.feature_ledger import FeatureLedger
from lab.report.feature_names import FeatureNames
from lab.report.feature_quality import quality_block
from lab.report.feature_ranking import shown_features
from lab.report.markup import escaped


def feature_section(ledger: FeatureLedger, names: FeatureNames, *, n_cards: int = 3) -> str:
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
