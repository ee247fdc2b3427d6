"""assess: a case's estimates against its truth, as trials."""

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import polars as pl
from jaxtyping import Shaped

from elicitation.calibration.record import TRIALS
from elicitation.estimators.base_success import base_success
from elicitation.estimators.coverage import coverage
from elicitation.estimators.estimate import Analysis, Estimator
from elicitation.estimators.kl_split import kl_split
from elicitation.estimators.ladder_share import ladder_share, published_share
from elicitation.estimators.token_ranks import token_ranks
from lab.scoring.evidence import Evidence


def replica(evidence: Evidence, generator: np.random.Generator) -> Evidence:
    """Evidence on as many problems, drawn from those there are; a problem drawn twice counts as two.

    The old task's problems are their own set, and are drawn on their own.
    """
    ids = np.array(sorted(evidence.verdicts["problem_id"].unique().to_list()))
    drawn = drawing(ids, generator)
    tables = {
        field.name: redrawn(getattr(evidence, field.name), drawn)
        for field in fields(evidence)
        if field.name not in ("arms", "old_verdicts")
    }
    old = evidence.old_verdicts
    if not old.is_empty():
        old = redrawn(old, drawing(np.array(sorted(old["problem_id"].unique().to_list())), generator))
    return Evidence(arms=evidence.arms, **tables, old_verdicts=old)


def drawing(ids: Shaped[np.ndarray, " problem"], generator: np.random.Generator) -> pl.DataFrame:
    """Old and new names of the problems drawn."""
    chosen = generator.choice(ids, size=len(ids))
    return pl.DataFrame({"problem_id": chosen, "copy": [f"{index:06d}" for index in range(len(ids))]})


def redrawn(table: pl.DataFrame, drawn: pl.DataFrame) -> pl.DataFrame:
    """`table` with one copy of a problem's rows for each time it was drawn, under its new name."""
    joined = drawn.join(table, on="problem_id", how="inner")
    return joined.with_columns(pl.col("copy").alias("problem_id")).select(table.columns)


SHARE_ESTIMATORS: tuple[Estimator, ...] = (coverage, base_success, kl_split, token_ranks, ladder_share, published_share)
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
