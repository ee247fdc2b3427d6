"""best_estimate: what the estimator with the best calibration record says of a study, in one sentence."""

import polars as pl

from lab.report.calibration_answer import ranking
from lab.report.numerals import interval, percent
from lab.report.record_words import record_words

ASKS_TUNED = ("E4",)
"""Estimators that read the tuned model while the base answers: what they recover need not have been in the base."""


def best_estimate(estimates: pl.DataFrame, records: pl.DataFrame) -> str:
    """One sentence of plain text: the first in the ranking of records that gives a share, or why the first gives none.

    Estimators that ask the tuned model are left out, whatever their record. Empty where nothing is calibrated, or none
    of the calibrated estimators ran.
    """
    shares = estimates.filter(pl.col("unit") == "share")
    ran = {(row["estimator"], row["quantity"]): row for row in shares.iter_rows(named=True)}
    found = [
        (record, ran[record["estimator"], record["quantity"]])
        for record in ranking(records)
        if (record["estimator"], record["quantity"]) in ran and record["estimator"] not in ASKS_TUNED
    ]
    if not found:
        return ""
    record, row = next(((record, row) for record, row in found if row["refusal"] is None), found[0])
    name = f"{record['estimator']} ({record['quantity']})"
    if row["refusal"] is not None:
        return f"{name}, the estimator with the best record, gives no share: {row['refusal']}."
    share = f"{percent(row['value'], 0)} {interval(row['low'], row['high'], 0)}".strip()
    return (
        f"{share} of the gain was already in the base model, by {name}, which has the best record of those that do "
        f"not ask the tuned model ({record_words(record)})."
    )
