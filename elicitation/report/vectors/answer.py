"""Vector answer: which fit recovers how much, beyond which control, at which decoding, in one plain sentence."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.report.features.captions import FeatureCaption
from elicitation.report.kit.canvas import sheet
from elicitation.report.kit.document import guide
from elicitation.report.kit.markup import escaped
from elicitation.report.vectors.tables import CONTROLS, DECODINGS, ENDS, VectorTables
from lab.records.numerals import figures, interval, percent, points


def vector_answer(ledger: VectorTables, task: str) -> str:
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
    if row["best_control"] is None or math.isnan(row["beyond"]):
        return "with no control to be compared with"
    best_control = f"its best control ({CONTROLS.get(row['best_control'], row['best_control'])})"
    lead = f"{points(row['beyond'])} points {interval(row['beyond_low'], row['beyond_high'])}".strip()
    if row["beyond_low"] > 0:
        return f"{lead} beyond {best_control}"
    side = "below" if row["beyond_high"] < 0 else "not clearly beyond"
    return f"{side} {best_control}: {lead}"


HOW_TO_READ = guide(
    {
        "steering vector": "A direction that is added to what a model computes; no weight changes.",
        "share": "The part of the gain from base to tuned model that a vector recovers, at the same decoding. Trust "
        "what exceeds the best of its controls.",
        "strict": "An answer counts only if every step is valid, where the task's steps can be checked.",
        "control": "The same procedure where it cannot teach the same, such as a random direction of the same length.",
        "brackets": "95 % intervals, resampling problems; comparisons are paired by problem.",
    }
)
SAMPLED = FeatureCaption(
    title="At temperature 1",
    lead="Strict accuracy on problems that no fit has seen. Each fit stands above its controls: the same procedure "
    "where it cannot teach the same, stretched to the fit's length.",
    says="Strict accuracy of every fit and control at temperature 1; the table below holds the numbers.",
    sees="See which fits reach into the shaded stretch, and whether their hollow controls stay behind at the base.",
    key="Hollow marks are controls. <b>Random directions</b>: each problem has one of many of its own. <b>Shuffled "
    "labels</b>: the same texts with their sides forgotten (for means), with tokens from other places as what comes "
    "next (for gradients), or with rewards for other problems' answers (for the policy gradient). <b>Another task</b> "
    "and <b>placebo pair</b>: fitted on all that two models wrote there, solved or not; for the policy gradient, on "
    "the other task's rewards.",
)
GREEDY = FeatureCaption(
    title="Greedily",
    lead="The same with the most likely token at each step, and so with another base and another gain: what a vector "
    "does to the first choice, without what sampling loses at every step.",
    says="Strict accuracy of every fit and control, decoded greedily; the table below holds the numbers.",
    sees="See which fits change the model's first choice, and whether any hollow control does as well.",
)
FITS = FeatureCaption(
    title="How long the vectors are",
    lead="Norm of each direction beside the mean norm of the model's own stream at the site.",
)
DOSES = FeatureCaption(
    title="Stronger and weaker",
    lead="The same vectors times a dose, at temperature 1.",
    says="Accuracy by dose for every fit; the table below holds the numbers.",
    sees="See at which dose each curve is highest, and how soon it breaks down beyond.",
)
TRANSFERS = FeatureCaption(
    title="Elsewhere, and backwards",
    lead="A vector that carries the skill takes the gain from the tuned model where it is subtracted, acts on a base "
    "of the same kind, and helps no model that has nothing to elicit. At temperature 1.",
    key="Beside random vectors of the same norm, which share the samples. Taking away proves little: random vectors "
    "may break a model as well.",
)
WITHOUT_SCRIPTS = "The figures need JavaScript. Their numbers are in the tables under them."


def fit_block(fits: pl.DataFrame) -> str:
    """One row a fit and site, and a list of what could not be fitted; empty where there is neither."""
    if fits.is_empty():
        return ""
    found = fits.filter(pl.col("control").is_null(), pl.col("site").is_not_null())
    rows = [
        (
            f'{escaped(row["label"])}<span class="what">{escaped(row["site"])}; '
            f"{escaped(row['description'] or '')}</span>",
            figures(row["norm"]),
            figures(row["residual_norm"]),
            percent(row["relative_dose"]),
        )
        for row in found.iter_rows(named=True)
    ]
    table = sheet(("", "Norm", "Norm of the stream", "Relative dose"), rows) if rows else ""
    return f"{FITS.head(2)}{table}{_missing(fits)}"


def _missing(fits: pl.DataFrame) -> str:
    items = [
        f"<li>{escaped(row['label'])}{_of(row['control'])}: {escaped(row['reason'])}</li>"
        for row in fits.filter(pl.col("reason").is_not_null()).iter_rows(named=True)
    ]
    return f'<div class="refusals"><p>What could not be fitted:</p><ul>{"".join(items)}</ul></div>' if items else ""


def _of(control: str | None) -> str:
    return "" if control is None else f", control {escaped(CONTROLS.get(control, control))}"
