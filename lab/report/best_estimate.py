"""best_estimate: what the estimator with the best calibration record says of a study, in one sentence."""

import polars as pl

from lab.report.calibration_answer import best_record
from lab.report.numerals import interval, percent
from lab.report.record_words import record_words


def best_estimate(estimates: pl.DataFrame, records: pl.DataFrame) -> str:
    """One sentence of plain text; empty where nothing is calibrated or the estimator did not run."""
    best = best_record(records)
    if best is None:
        return ""
    name = f"{best['estimator']} ({best['quantity']})"
    mine = estimates.filter(
        pl.col("unit") == "share",
        pl.col("estimator") == best["estimator"],
        pl.col("quantity") == best["quantity"],
    )
    if mine.is_empty():
        return ""
    row = mine.row(0, named=True)
    if row["refusal"] is not None:
        return f"{name}, the estimator with the best record, gives no share: {row['refusal']}."
    share = f"{percent(row['value'], 0)} {interval(row['low'], row['high'], 0)}".strip()
    return (
        f"By the estimator with the best record, {name}, {share} of the gain was already in the base model "
        f"({record_words(best)})."
    )
