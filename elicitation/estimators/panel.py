"""panel: all estimators on the same evidence, as one table."""

import polars as pl

from elicitation.estimators.base_success import base_success
from elicitation.estimators.coverage import coverage
from elicitation.estimators.estimate import ESTIMATES, Analysis, Estimator
from elicitation.estimators.forgetting import forgetting
from elicitation.estimators.kl_split import kl_split
from elicitation.estimators.ladder_share import ladder_share
from elicitation.estimators.process_gain import process_gain
from elicitation.estimators.token_ranks import token_ranks
from lab.scoring.evidence import Evidence

ESTIMATORS: dict[str, Estimator] = {
    "E1": coverage,
    "E2": base_success,
    "E3": kl_split,
    "E4": token_ranks,
    "E5": ladder_share,
    "E8": process_gain,
    "E10": forgetting,
}
"""Every estimator by its number; another one is a file of its own and an entry here."""
SHARES = ("E1", "E2", "E3", "E4", "E5")
"""Those that give an elicited share, which calibration scores."""


def panel(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of every estimator, in the order of their numbers."""
    return ESTIMATES.checked(pl.concat([estimator(evidence, analysis) for estimator in ESTIMATORS.values()]))
