"""Feature rulers: how the changes of one ledger are written, the same in sentence, figure, table and card."""

from lab.report.feature_ledger import FeatureLedger
from lab.report.feature_ranking import main_effects, ranked_differences
from lab.report.ruler import Ruler, changes


def effect_ruler(ledger: FeatureLedger) -> Ruler:
    """For effects in nats, by any method."""
    return changes(main_effects(ledger.effects)["effect"].head(1))


def difference_ruler(ledger: FeatureLedger) -> Ruler:
    """For mean activations and their differences."""
    return changes(ranked_differences(ledger.differences)["difference"].head(1))
