"""panel: all estimators on the same evidence, as one table."""

import polars as pl

from lab.estimators.base_success import base_success
from lab.estimators.coverage import coverage
from lab.estimators.estimate import ESTIMATES, Analysis, Estimator
from lab.estimators.evidence import Evidence
from lab.estimators.forgetting import forgetting
from lab.estimators.kl_split import kl_split
from lab.estimators.ladder_share import ladder_share
from lab.estimators.process_gain import process_gain
from lab.estimators.token_ranks import token_ranks

ESTIMATORS: tuple[Estimator, ...] = (
    coverage,
    base_success,
    kl_split,
    token_ranks,
    ladder_share,
    process_gain,
    forgetting,
)


def panel(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of every estimator, in the order of their numbers."""
    return ESTIMATES.checked(pl.concat([estimator(evidence, analysis) for estimator in ESTIMATORS]))
