"""Vector answer: which fit recovers how much, beyond which control, at which decoding, in one plain sentence."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.pages.kit.numerals import percent
from elicitation.pages.kit.ruler import POINTS, WHOLE
from elicitation.pages.vectors.tables import CONTROLS, DECODINGS, ENDS, VectorTables


def vector_answer(tables: VectorTables, task: str) -> str:
    """One honest sentence on the fit of the highest strict accuracy at temperature 1.

    `task` is what stands before the word problems, such as `held-out chain`. The sentence says how many fits it was the
    best of. A fit is said to go beyond its best control only if the paired interval lies above nought.
    """
    fits = [row for row in tables.rows("strict", "sampled") if row["control"] is None and row["fit"] not in ENDS]
    if not fits:
        reasons = tables.fits.filter(pl.col("control").is_null())["reason"].drop_nulls()
        why = reasons[0].rstrip(".") if len(reasons) else "no fit was asked for"
        return f"No vector could be fitted: {why}."
    best = max(fits, key=lambda row: row["value"])
    low, high = (tables.row(end, "strict", "sampled") for end in ENDS)
    parts = [_part(tables.row(best["fit"], "strict", decoding)) for decoding in DECODINGS]
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
    words = DECODINGS[row["decoding"]]
    if row["refusal"] is not None or math.isnan(row["share"]):
        part = f"recovers {words} no share that can be given, the gain there being too small or uncertain"
    else:
        part = f"recovers {WHOLE.said(row, 'share')} {words}"
    return f"{part}, {_beyond(row)}"


def _beyond(row: Mapping[str, Any]) -> str:
    if row["best_control"] is None or math.isnan(row["beyond"]):
        return "with no control to be compared with"
    best_control = f"its best control ({CONTROLS.get(row['best_control'], row['best_control'])})"
    lead = f"{POINTS.write(row['beyond'])} points {POINTS.span(row['beyond_low'], row['beyond_high'])}".strip()
    if row["beyond_low"] > 0:
        return f"{lead} beyond {best_control}"
    side = "below" if row["beyond_high"] < 0 else "not clearly beyond"
    return f"{side} {best_control}: {lead}"
