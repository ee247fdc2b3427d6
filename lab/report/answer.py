"""The answer: what a ladder says, in one plain sentence."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from lab.report.numerals import bits, interval, percent
from lab.report.rungs import rungs


def answer_sentence(ladder: pl.DataFrame, task: str, base: str, tuned: str) -> str:
    """One honest sentence on strict accuracy.

    `task` is what stands before the word problems, such as `held-out chain`. The sentence names the rung of highest
    share among those that take nothing from the tuned model at test time (or, if none, that take least), says how many
    it was the best of, and sets beside it the control that did best. A rung whose interval meets that control's is
    said not to beat it.
    """
    rows = rungs(ladder, "strict")
    low_end, high_end = rows.filter(pl.col("kind") == "end").to_dicts()
    scores = (
        f"On {low_end['n_problems']} {task} problems {tuned} solves {percent(high_end['accuracy'])} "
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
    rivals = rows.filter((pl.col("control_of") == best["arm"]) & pl.col("share").is_not_nan())
    rivals = rivals.sort("share", descending=True, maintain_order=True)
    rival = rivals.row(0, named=True) if rivals.height else None
    return f"{scores}; {_recovery(best, alike.height)}{_comparison(best, rival)}."


def _recovery(best: Mapping[str, Any], among: int) -> str:
    bits_used = best["bits_per_token"]
    source = "no information" if bits_used == 0 else f"{bits(bits_used)} bits per token"
    doubt = ", an interval that includes none," if best["share_low"] <= 0 <= best["share_high"] else ""
    chosen = f" (the best of {among} such methods)" if among > 1 else ""
    recovered = f"{_plain(best)} recovers {_span(best)} of that gain{doubt}"
    return f"{recovered} with {source} from the tuned model at test time{chosen}"


def _comparison(best: Mapping[str, Any], rival: Mapping[str, Any] | None) -> str:
    if rival is None:
        return ", but it has no control to be compared with"
    if best["share_low"] <= rival["share_high"]:
        return f", which is not clearly more than its control, {_plain(rival)}, at {_span(rival)}"
    return f"; its control, {_plain(rival)}, {_span(rival)}"


def _plain(row: Mapping[str, Any]) -> str:
    """The label inside a sentence; quoted where a comma of its own would break the sentence."""
    words = str(row["label"]).removeprefix("+").strip()
    return f"“{words}”" if "," in words else words


def _span(row: Mapping[str, Any]) -> str:
    return f"{percent(row['share'], 0)} {interval(row['share_low'], row['share_high'], 0)}".strip()
