"""Rival records: how the published methods did where the truth is known, beside the best of the lab's own."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from lab.calibration.trial import RIVALS
from lab.report.calibration_answer import ranking
from lab.report.markup import escaped
from lab.report.numerals import percent
from lab.report.record_words import counted

DRAWN = "R1"
"""The rival whose vectors come out another way with each fit, and its result with them."""
_ONE_DRAW = (
    f"<p>What {DRAWN} reaches depends on how its vectors came out of their fit: each trial is one draw of a fit, and "
    "another may err less or more.</p>"
)


def rival_records(records: pl.DataFrame) -> str:
    """Error, coverage and leak of every rival of `RECORDS` in a sentence each, as HTML; empty where none was run."""
    rivals = records.filter(pl.col("estimator").is_in(RIVALS), pl.col("n_trials") > 0)
    if rivals.is_empty():
        return ""
    best = next(iter(ranking(records)), None)
    rows = [*rivals.iter_rows(named=True), *([] if best is None else [best])]
    items = "".join(f"<li>{escaped(_sentence(row))}</li>" for row in rows)
    last = "" if best is None else ", and the best of the lab's own, last"
    note = _ONE_DRAW if DRAWN in rivals["estimator"] else ""
    return (
        f'<div class="refusals"><p>Two published methods on the same organisms{last}:</p><ul>{items}</ul>{note}</div>'
    )


def _sentence(row: Mapping[str, Any]) -> str:
    n_given = row["n_trials"] - row["n_refused"]
    name = f"{row['estimator']} ({row['quantity']})"
    if n_given == 0:
        return f"{name} refused all {counted(row['n_trials'], 'trial')}."
    errs = f"errs by {100 * row['mean_absolute_error']:.1f} points on average"
    holds = f"its interval holds the truth in {percent(row['coverage'], 0)} of {counted(n_given, 'trial')}"
    holds = f"it gave no interval in {counted(n_given, 'trial')}" if math.isnan(row["coverage"]) else holds
    finds = "" if math.isnan(row["leak"]) else f", and it finds {percent(row['leak'], 0)} where the true share is 0"
    return f"{name} {errs}; {holds}{finds}."
