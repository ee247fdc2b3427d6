"""Vector answer: which fit recovers how much, beyond which control, at which decoding, in one plain sentence."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from lab.report.numerals import interval, percent, points
from lab.report.vector_ledger import CONTROLS, DECODINGS, ENDS, VectorLedger


def vector_answer(ledger: VectorLedger, task: str) -> str:
    """One honest sentence on the fit of the highest strict accuracy at temperature 1.

    `task` is what stands before the word problems, such as `held-out chain`. The sentence says how many fits it was the
    best of. A fit is said to go beyond its best control only if the paired interval lies above nought.
    """
    fits = [row for row in ledger.rows("strict", "sampled") if row["control"] is None and row["fit"] not in ENDS]
    if not fits:
        reasons = ledger.fits.filter(pl.col("control").is_null())["reason"].drop_nulls()
        why = reasons[0].rstrip(".") if len(reasons) else "no fit was asked for"
        return f"No vector could be fitted: {why}."
    best = max(fits, key=lambda row: row["value"])
    low, high = (ledger.row(end, "strict", "sampled") for end in ENDS)
    parts = [_part(ledger.row(best["fit"], "strict", decoding)) for decoding in DECODINGS]
    chosen = (
        f"; it is the best of {len(fits)} fits, and no interval is adjusted for that choice" if len(fits) > 1 else ""
    )
    return (
        f"Of the strict gain from {low['label']} to {high['label']} ({percent(low['value'])} to "
        f"{percent(high['value'])} at temperature 1, on {best['n_problems']} {task} problems), “{best['label']}” "
        f"{'; '.join(parts)}{chosen}."
    )


def _part(row: Mapping[str, Any]) -> str:
    """What it recovers at one decoding."""
    how = DECODINGS[row["decoding"]]
    if row["refusal"] is not None or math.isnan(row["share"]):
        part = f"recovers {how} no share that can be given, the gain there being too small or uncertain"
    else:
        part = f"recovers {percent(row['share'], 0)} {interval(row['share_low'], row['share_high'], 0)} {how}"
    return f"{part}, {_beyond(row)}"


def _beyond(row: Mapping[str, Any]) -> str:
    if row["rival"] is None or math.isnan(row["beyond"]):
        return "with no control to be compared with"
    rival = f"its best control ({CONTROLS.get(row['rival'], row['rival'])})"
    lead = f"{points(row['beyond'])} points {interval(row['beyond_low'], row['beyond_high'])}".strip()
    if row["beyond_low"] > 0:
        return f"{lead} beyond {rival}"
    side = "below" if row["beyond_high"] < 0 else "not clearly beyond"
    return f"{side} {rival}: {lead}"
