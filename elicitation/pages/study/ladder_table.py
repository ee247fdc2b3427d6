"""Ladder table: every number behind the ladder, for a page and for a terminal; and what a study found at a glance."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup
from rich.table import Table

from elicitation.calibration.record import NOT_MEASURED, Leak, leak
from elicitation.pages.kit.markup import counted, joined, markup
from elicitation.pages.kit.numerals import ABSENT, bits, percent
from elicitation.pages.kit.ruler import BITS, PERCENT, POINTS, WHOLE, remarked
from elicitation.pages.kit.table import ROOM_FOR_ALL, Line, Reasons, sheet, terminal_table
from elicitation.pages.record_words import leak_cell, leak_figures, silent_figures
from elicitation.pages.study.answer import best_estimate
from elicitation.pages.study.tables import rungs

_HEADINGS = (
    "",
    "Strict",
    "Answer only",
    "Gain over base, points",
    "Share of the gain",
    "Leak",
    "Over its best control, points",
    "Tokens steered",
    "Bits per token from tuned",
)


def ladder_table(ladder: pl.DataFrame, leaks: pl.DataFrame) -> Markup:
    """`LADDER` with the tuned model first, as in the figure, and what `LEAKS` says of each arm.

    A refused share carries a number that points to its reason below.
    """
    answers = {row["arm"]: row for row in ladder.filter(pl.col("measure") == "answer").iter_rows(named=True)}
    rows = rungs(ladder, "strict").reverse()
    reasons = Reasons.of(rows["refusal"])
    lines = [
        _line(row, answers.get(row["arm"]), leak(leaks, row["arm"]), reasons) for row in rows.iter_rows(named=True)
    ]
    return sheet(_HEADINGS, lines) + reasons.notes("a share")


def _line(row: Mapping[str, Any], answer: Mapping[str, Any] | None, leaked: Leak | None, reasons: Reasons) -> Line:
    kind, steered = row["kind"], row["steered_share"]
    # The base has no gain over itself.
    moved = kind != "end" or row["gain"] != 0
    cells = (
        markup('<span class="role">control</span> {}', row["label"]) if kind == "control" else row["label"],
        PERCENT.cell(row, "accuracy"),
        PERCENT.cell(answer, "accuracy") if answer else ABSENT,
        POINTS.cell(row, "gain") if moved else ABSENT,
        share_cell(row, reasons),
        ABSENT if kind == "end" else leak_cell(leaked, silent_figures(leaked)),
        POINTS.cell(row, "over_control") if kind == "rung" else ABSENT,
        percent(steered, 0 if steered >= 0.1 or steered == 0 else 1),
        _bits(row),
    )
    return Line(cells, kind)


def share_cell(row: Mapping[str, Any], reasons: Reasons) -> str:
    """The share of an arm, or that it is refused; the two models have none."""
    if row["refusal"] is not None:
        return reasons.refused(row["refusal"])
    return ABSENT if row.get("kind") == "end" else WHOLE.cell(row, "share")


def _bits(row: Mapping[str, Any]) -> Markup:
    """Bits a token with their interval, those of a completion, and what an answer costs where it is not one sample."""
    asks = 0 < row["bits_per_token"] < math.inf
    return remarked(
        bits(row["bits_per_token"]),
        BITS.span(row["bits_low"], row["bits_high"]) if asks else "",
        f"{bits(row['bits_per_problem'])} a problem" if asks and not math.isnan(row["bits_per_problem"]) else "",
        f"{row['cost']:.3g}\u202f× the tokens" if row["cost"] != 1 and not math.isnan(row["cost"]) else "",
    )


def glance(
    ladder: pl.DataFrame, estimates: pl.DataFrame, records: pl.DataFrame, compared: str, *, process_checked: bool
) -> Markup:
    """`compared` names the two models and the problems, in plain text; a row that has nothing to say is left out."""
    n_samples = max(rungs(ladder, "strict")["n_samples"])
    counts = (
        "An answer counts only if every step that leads to it is valid."
        if process_checked
        else "Answers alone are counted: this task's process cannot be checked."
    )
    rows = {
        "Compared": f"{compared}, up to {counted(n_samples, 'sample')} of each",
        "Already in the base": best_estimate(estimates, records),
        "How sure": f"{counts} Brackets are 95 % intervals over problems.{_spread(estimates)}",
    }
    entries = joined(markup("<div><dt>{}</dt><dd>{}</dd></div>", name, said) for name, said in rows.items() if said)
    return markup('<dl class="glance">{}</dl>', entries)


def _spread(estimates: pl.DataFrame) -> str:
    """How far the estimators' shares lie apart; empty where fewer than two were given."""
    shares = estimates.filter(pl.col("unit") == "share", pl.col("refusal").is_null(), pl.col("value").is_not_nan())
    if shares["estimator"].n_unique() < 2:
        return ""
    values = shares["value"].sort()
    low, high = percent(values[0], 0), percent(values[-1], 0)
    return f" By other ways of estimating, the share lies anywhere from {low} to {high}; each asks its own question."


_COLUMNS = ("", "strict", "answer only", "gain, points", "over control", "share of gain", "leak", "bits/token")
WIDE_ONLY = ("answer only", "gain, points", "over control", "leak")
_STYLES = {"end": "bold", "rung": "", "control": "dim"}


def summary(ladder: pl.DataFrame, width: int = ROOM_FOR_ALL, leaks: pl.DataFrame = NOT_MEASURED) -> Table:
    """The ladder as a table for a terminal of `width` columns: the tuned model on top, refusals spelt out below.

    `leaks` is a `LEAKS` table; arms that are not in it are said to be not measured.
    """
    answers = dict(ladder.filter(pl.col("measure") == "answer").select("arm", "accuracy").iter_rows())
    lines, rows = [], rungs(ladder, "strict").reverse()
    for row in rows.iter_rows(named=True):
        kind = row["kind"]
        share = ABSENT if kind == "end" or math.isnan(row["share"]) else WHOLE.said(row, "share")
        cells = (
            f"{'  └ ' if kind == 'control' else ''}{row['label']}",
            percent(row["accuracy"]),
            percent(answers.get(row["arm"], math.nan)),
            POINTS.said(row, "gain"),
            POINTS.said(row, "over_control") if kind == "rung" else ABSENT,
            share if row["refusal"] is None else "refused",
            ABSENT if kind == "end" else " ".join(leak_figures(leak(leaks, row["arm"]))).rstrip(),
            bits(row["bits_per_token"]),
        )
        lines.append(Line(cells, _STYLES[kind]))
    reasons = Reasons.of(rows["refusal"]).texts
    below = f"Refused: {'; '.join(reasons)}" if reasons else ""
    title = "Strict pass@1, with 95 % intervals over problems"
    return terminal_table(title, _COLUMNS, lines, width, wide_only=WIDE_ONLY, below=below)
