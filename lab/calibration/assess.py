"""assess: a case's estimates against its truth, as trials."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from lab.calibration.replica import replica
from lab.calibration.trial import TRIALS
from lab.estimators.base_success import base_success
from lab.estimators.coverage import coverage
from lab.estimators.estimate import Analysis, Estimator
from lab.estimators.evidence import Evidence
from lab.estimators.kl_split import kl_split
from lab.estimators.ladder_share import ladder_share
from lab.estimators.rival_share import rival_share
from lab.estimators.token_ranks import token_ranks

SHARE_ESTIMATORS: tuple[Estimator, ...] = (coverage, base_success, kl_split, token_ranks, ladder_share, rival_share)
"""Those that give an elicited share, and the published methods that are read as one."""


def assess(
    named: Mapping[str, object],
    truth: float,
    estimates: pl.DataFrame,
    evidence: Evidence,
    analysis: Analysis,
    seconds: Mapping[str, float],
    *,
    n_replicas: int,
    generator: np.random.Generator,
) -> pl.DataFrame:
    """`TRIALS`: one row for each share in `estimates`.

    `named` holds the columns that name the case and its truth, `seconds` what each estimator's evidence cost. Replicas
    are drawn only where there is a truth to cover; one whose share is refused covers nothing.
    """
    shares = estimates.filter(pl.col("unit") == "share")
    covered: dict[tuple[str, str], list[bool]] = {}
    for _ in range(n_replicas if np.isfinite(truth) else 0):
        again = replica(evidence, generator)
        for estimator in SHARE_ESTIMATORS:
            found = estimator(again, analysis).filter(pl.col("unit") == "share")
            for key in found.select("estimator", "quantity", "low", "high").iter_rows():
                covered.setdefault(key[:2], []).append(bool(key[2] <= truth <= key[3]))
    return TRIALS.frame(
        [
            {
                **named,
                "truth": truth,
                "estimator": row["estimator"],
                "quantity": row["quantity"],
                "value": row["value"],
                "low": row["low"],
                "high": row["high"],
                "refusal": row["refusal"],
                "replicas_covered": float(np.mean(covered.get((row["estimator"], row["quantity"]), [np.nan]))),
                "seconds": seconds.get(row["estimator"], 0.0),
            }
            for row in shares.iter_rows(named=True)
        ]
    )
