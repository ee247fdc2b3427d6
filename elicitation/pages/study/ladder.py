"""Ladder: what it says in one sentence, at a glance, and number by number, for a page and for a terminal."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup
from rich.table import Table

from elicitation.calibration.record import NOT_MEASURED, Leak, leak
from elicitation.pages.kit.markup import counted, joined, markup
from elicitation.pages.kit.numerals import ABSENT, BITS, PERCENT, POINTS, WHOLE, bits, percent, remarked
from elicitation.pages.kit.table import ROOM_FOR_ALL, Line, Reasons, sheet, terminal_table
from elicitation.pages.record_words import leak_cell, leak_figures, leak_sentence, ranking, record_words, silent_figures
from elicitation.pages.study.outcomes import reading_sentence
from elicitation.pages.study.tables import rungs


def answer_sentence(ladder: pl.DataFrame, leaks: pl.DataFrame, task: str, base: str, tuned: str, sampling: str) -> str:
    """One honest sentence on strict accuracy, and a second where the rung that it names leaks by `LEAKS`.

    `task` is what stands before the word problems, such as `held-out chain`; `sampling` is how completions were drawn,
    such as `at temperature 1`, and may be empty. The sentence names the rung of highest
    share among those that take nothing from the tuned model at test time (or, if none, that take least), says how many
    it was the best of, and sets beside it the control that did best. A rung is said to
    beat that control only if the paired interval of their difference lies above nought. What of the gain is reading and
    stopping follows, where it matters.
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
        return f"No share can be given: {why.rstrip('.')}. {scores}. {reading_sentence(ladder)}".rstrip()
    least = given["bits_per_token"].fill_nan(math.inf).min()
    alike = given.filter(pl.col("bits_per_token").fill_nan(math.inf) == least)
    best = alike.sort("share", descending=True, maintain_order=True).row(0, named=True)
    controls = rows.filter((pl.col("control_of") == best["arm"]) & pl.col("accuracy").is_not_nan())
    controls = controls.sort("accuracy", descending=True, maintain_order=True)
    best_control = next(controls.iter_rows(named=True), None)
    answer = f"{scores}; {_recovery(best, alike.height)}{_comparison(best, best_control)}."
    further = leak_sentence(leak(leaks, best["arm"])), reading_sentence(ladder)
    return " ".join(filter(None, (answer, *further)))


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


_HEADINGS = (
    "", "Strict", "Answer only", "Gain over base, points", "Share of the gain", "Leak", "Over its best control, points",
    "Tokens steered", "Bits per token from tuned",
)  # fmt: skip


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
        reasons.cell(row, ABSENT if kind == "end" else WHOLE.cell(row, "share")),
        ABSENT if kind == "end" else leak_cell(leaked, silent_figures(leaked)),
        POINTS.cell(row, "over_control") if kind == "rung" else ABSENT,
        percent(steered, 0 if steered >= 0.1 or steered == 0 else 1),
        _bits(row),
    )
    return Line(cells, kind)


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
    ladder: pl.DataFrame,
    estimates: pl.DataFrame,
    records: pl.DataFrame,
    compared: str,
    *,
    process_checked: bool,
    asked: str = "",
    memory: str = "",
) -> Markup:
    """`compared` names the two models and the problems, `asked` says how they are asked, in plain text.

    `memory` says whether the numbers can be memory. A row that has nothing to say is left out.
    """
    n_samples = max(rungs(ladder, "strict")["n_samples"])
    counts = (
        "An answer counts only if every step that leads to it is valid."
        if process_checked
        else "Answers alone are counted: this task's process cannot be checked."
    )
    rows = {
        "Compared": f"{compared}, up to {counted(n_samples, 'sample')} of each",
        "Asked": asked,
        "Already in the base": best_estimate(estimates, records),
        "Memory": memory,
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
