"""The tables of a page of vectors, as HTML."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.markup import joined, markup
from elicitation.pages.kit.numerals import figures, percent
from elicitation.pages.kit.ruler import FIGURES, PERCENT, POINTS, WHOLE
from elicitation.pages.kit.table import Reasons, sheet, titled
from elicitation.pages.vectors.figures import words
from elicitation.pages.vectors.tables import CONTROLS, VectorTables

_CHECKS = {
    "removes": "subtracted from the tuned model",
    "other base": "on another base",
    "other skill": "where there is nothing to elicit",
}


def effect_table(tables: VectorTables, decoding: str) -> Markup:
    """The tuned model, the fits each before its controls, and the base; refused shares point to their reasons."""
    strict, answers, broken = (tables.rows(measure, decoding) for measure in ("strict", "answer", "incoherent"))
    reasons = Reasons.of(row["refusal"] for row in (*strict, *answers))
    headings = (
        "", "Strict", "Share of the gain", "Beyond its best control, points", "Answer only", "Share of that gain",
        "Incoherent",
    )  # fmt: skip
    of = {(row["measure"], row["fit"], row["control"]): row for row in (*answers, *broken)}
    rows = []
    for row in sorted(strict, key=lambda row: (row["fit"] == "base", row["fit"] != "tuned")):
        answer, incoherent = (of[measure, row["fit"], row["control"]] for measure in ("answer", "incoherent"))
        name = "<b>{}</b>" if row["control"] is None else '<span class="role">control</span> {}'
        rows.append(
            (
                markup(name, words(row)),
                PERCENT.cell(row),
                _share(row, reasons),
                POINTS.cell(row, "beyond"),
                PERCENT.cell(answer),
                _share(answer, reasons),
                PERCENT.cell(incoherent),
            )
        )
    return sheet(headings, rows) + reasons.notes()


def _share(row: Mapping[str, Any], reasons: Reasons) -> str:
    return WHOLE.cell(row, "share") if row["refusal"] is None else reasons.refused(row["refusal"])


def dose_table(tables: VectorTables) -> Markup:
    """One row a fit and dose."""
    rows = []
    for (fit, dose), found in tables.doses.group_by(["fit", "dose"], maintain_order=True):
        of = {row["quantity"]: row for row in found.iter_rows(named=True)}
        rows.append(
            (
                titled(tables.labels.get(str(fit), str(fit)), f"dose {figures(float(str(dose)))}"),
                percent(of["strict"]["relative_dose"]),
                *(PERCENT.cell(of[name]) for name in ("strict", "answer", "incoherent")),
                FIGURES.cell(of["kl"]),
            )
        )
    return sheet(("", "Relative dose", "Strict", "Answer only", "Incoherent", "KL, nats a token"), rows)


def transfer_table(tables: VectorTables) -> Markup:
    """One row a fit and check, strict."""
    headings = ("", "Strict without", "With the vector", "With random ones", "Change, points", "Beyond random, points")
    rows = []
    for row in tables.transfers.filter(pl.col("quantity") == "strict").iter_rows(named=True):
        check = _CHECKS.get(row["check"], row["check"])
        where = f"{check}: {row['model']}, {row['task']}, dose {figures(row['dose'])}"
        accuracies = (percent(row[name]) for name in ("plain", "steered", "control"))
        rows.append(
            (
                titled(tables.labels.get(str(row["fit"]), str(row["fit"])), where),
                *accuracies,
                *(POINTS.cell(row, name) for name in ("change", "beyond")),
            )
        )
    return sheet(headings, rows)


def fit_table(fits: pl.DataFrame) -> Markup:
    """One row a fit and site, and a list of what could not be fitted."""
    rows = [
        (
            titled(row["label"], f"{row['site']}; {row['description'] or ''}"),
            figures(row["norm"]),
            figures(row["residual_norm"]),
            percent(row["relative_dose"]),
        )
        for row in fits.filter(pl.col("control").is_null(), pl.col("site").is_not_null()).iter_rows(named=True)
    ]
    missing = [
        markup("<li>{}{}: {}</li>", row["label"], _of(row["control"]), row["reason"])
        for row in fits.filter(pl.col("reason").is_not_null()).iter_rows(named=True)
    ]
    listed = '<div class="refusals"><p>What could not be fitted:</p><ul>{}</ul></div>'
    table = sheet(("", "Norm", "Norm of the stream", "Relative dose"), rows)
    return table + (markup(listed, joined(missing)) if missing else "")


def _of(control: str | None) -> str:
    return "" if control is None else f", control {CONTROLS.get(control, control)}"
