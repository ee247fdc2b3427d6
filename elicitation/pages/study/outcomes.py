"""Outcomes: what became of the completions of every arm, and what of the gain is reading and stopping alone."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.markup import markup
from elicitation.pages.kit.numerals import POINTS, percent, points
from elicitation.pages.kit.table import numbers, sheet
from elicitation.pages.study.tables import rungs
from lab.scoring.evidence import Role

NOTED = 0.02
"""Fraction of completions of a model, cut or without an answer, from which on a reader is told without asking."""
MATTERS = 0.1
"""Part of the gain from which on reading and stopping stand in the headline, even if they may be nought."""
_KINDS = {"right": "right", "wrong": "wrong", "no_answer": "without an answer", "cut": "cut"}


def reading_sentence(ladder: pl.DataFrame, *, always: bool = False) -> str:
    """How much of the tuned model's gain the base model's own completions have, read leniently; in plain text.

    Empty where that was not tried, where there is no gain, and, unless `always`, where it does not matter.
    """
    rows = rungs(ladder, "strict")
    gain = rows.filter(pl.col("kind") == "end")["gain"][-1]
    read = rows.filter((pl.col("role") == Role.READING) & (pl.col("kind") == "rung")).to_dicts()
    if not read or gain <= 0 or not (always or read[0]["gain_low"] > 0 or read[0]["gain"] >= MATTERS * gain):
        return ""
    return f"Of the gain of {points(gain)} points, {POINTS.said(read[0], 'gain')} are reading and stopping."


def outcomes_block(outcomes: pl.DataFrame, ladder: pl.DataFrame) -> Markup:
    """A line on the two models where it matters, what reading them leniently changes, and all arms, folded."""
    if outcomes.is_empty():
        return Markup("")
    order = {arm: place for place, arm in enumerate(rungs(ladder, "strict").reverse()["arm"])}
    rows = sorted(outcomes.to_dicts(), key=lambda row: order.get(row["arm"], len(order)))
    heads = rungs(ladder, "strict").filter(pl.col("kind") == "end")["arm"].to_list()
    ends = [row for arm in heads for row in rows if row["arm"] == arm]
    noted = any(max(row["no_answer"], row["cut"]) > NOTED for row in ends)
    lines = [" ".join(f"{_said(row)}." for row in ends)] if noted else []
    if said := reading_sentence(ladder, always=True):
        how = "That is the base model, written on past the token limit and read for its first answer."
        lines.append(f"{said} {how}{_fair(ends)}")
    table = sheet(
        ("", *(word.capitalize() for word in _KINDS.values()), "Right by first answer", "Completions"),
        [
            (row["label"], *(percent(row[kind]) for kind in _KINDS), percent(row["lenient"]), str(row["n_completions"]))
            for row in rows
        ],
    )
    told = Markup("").join(markup('<p class="note">{}</p>', line) for line in lines)
    return told + numbers("What became of the completions: right, wrong, no answer, cut", table)


def _said(row: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{percent(row[kind])} {words}" for kind, words in _KINDS.items())
    return f"Completions of {row['label']}: {shares}"


def _fair(ends: list[dict[str, Any]]) -> str:
    """What the tuned model would score if it were read so, too."""
    lenient = [row["lenient"] for row in ends[1:] if row["lenient"] == row["lenient"]]
    return f" Read so too, the tuned model's own completions are right in {percent(lenient[0])}." if lenient else ""
