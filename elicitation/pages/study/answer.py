"""The answer: what a ladder says, in one plain sentence."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.calibration.record import leak
from elicitation.pages.kit.numerals import bits, percent
from elicitation.pages.kit.ruler import POINTS, WHOLE
from elicitation.pages.record_words import leak_sentence, ranking, record_words
from elicitation.pages.study.tables import rungs


def answer_sentence(ladder: pl.DataFrame, leaks: pl.DataFrame, task: str, base: str, tuned: str, sampling: str) -> str:
    """One honest sentence on strict accuracy, and a second where the rung that it names leaks by `LEAKS`.

    `task` is what stands before the word problems, such as `held-out chain`; `sampling` is how completions were drawn,
    such as `at temperature 1`, and may be empty. The sentence names the rung of highest
    share among those that take nothing from the tuned model at test time (or, if none, that take least), says how many
    it was the best of, and sets beside it the control that did best. A rung is said to
    beat that control only if the paired interval of their difference lies above nought.
    """
    rows = rungs(ladder, "strict")
    low_end, high_end = rows.filter(pl.col("kind") == "end").to_dicts()
    drawn = f", {sampling}," if sampling else ""
    scores = (
        f"On {low_end['n_problems']} {task} problems{drawn} {tuned} solves {percent(high_end['accuracy'])} "
        f"where {base} solves {percent(low_end['accuracy'])}"
    )
    helped = rows.filter(pl.col("kind") == "rung")
    given = helped.filter(pl.col("share").is_not_nan() & pl.col("refusal").is_null())
    if given.is_empty():
        refusals = helped["refusal"].drop_nulls()
        why = refusals[0] if len(refusals) else "no kind of help between the two was tried"
        return f"No share can be given: {why.rstrip('.')}. {scores}."
    least = given["bits_per_token"].fill_nan(math.inf).min()
    alike = given.filter(pl.col("bits_per_token").fill_nan(math.inf) == least)
    best = alike.sort("share", descending=True, maintain_order=True).row(0, named=True)
    controls = rows.filter((pl.col("control_of") == best["arm"]) & pl.col("accuracy").is_not_nan())
    controls = controls.sort("accuracy", descending=True, maintain_order=True)
    best_control = next(controls.iter_rows(named=True), None)
    answer = f"{scores}; {_recovery(best, alike.height)}{_comparison(best, best_control)}."
    return f"{answer} {leak_sentence(leak(leaks, best['arm']))}".rstrip()


def _recovery(best: Mapping[str, Any], among: int) -> str:
    bits_used = best["bits_per_token"]
    source = "no information" if bits_used == 0 else f"{bits(bits_used)} bits per token"
    chosen = f" (the best of {among} such methods, its interval not adjusted for that choice)" if among > 1 else ""
    words = bare(best["label"])
    # Quoted where a comma of its own would break the sentence.
    name = f"“{words}”" if "," in words else words
    return f"{name} recovers {_part(best)} with {source} from the tuned model at test time{chosen}"


def _part(best: Mapping[str, Any]) -> str:
    """How much of the gain; past the whole of it a share is no longer a part, so the words come first."""
    if best["share"] > 1:
        whole = "all of that gain and more" if best["share_low"] > 1 else "all of that gain in the estimate"
        return f"{whole}: {WHOLE.said(best, 'share')},"
    doubt = ", an interval that includes none," if best["share_low"] <= 0 <= best["share_high"] else ""
    return f"{WHOLE.said(best, 'share')} of that gain{doubt}"


def _comparison(best: Mapping[str, Any], best_control: Mapping[str, Any] | None) -> str:
    low, high = best["over_control_low"], best["over_control_high"]
    if best_control is None:
        return ", but it has no control to be compared with"
    name = f"its best control, “{bare(best_control['label'])}”"
    if math.isnan(low):
        return f", but could not be compared with {name}"
    lead = f"{POINTS.write(best['over_control'])} points {POINTS.span(low, high)}"
    if low > 0:
        return f", and beats {name}, by {lead}"
    return f", but does not {'' if high < 0 else 'clearly '}beat {name}: {lead}"


def bare(label: str) -> str:
    """A rung's label inside other words."""
    return label.removeprefix("+").strip()


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
    return (
        f"{WHOLE.said(row)} of the gain was already in the base model, by {name}, which has the best record of those "
        f"that do not ask the tuned model ({record_words(record)})."
    )
