"""Vector page: fits of steering vectors side by side, each against its controls: figures, tables, answer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.canvas import Canvas, key, plot_block
from elicitation.pages.kit.document import Origin, document
from elicitation.pages.kit.markup import joined, markup
from elicitation.pages.kit.numerals import FIGURES, PERCENT, POINTS, WHOLE, figures, percent
from elicitation.pages.kit.palette import BASE_STYLE, STEERED, TUNED_STYLE, Style, hollow
from elicitation.pages.kit.plots import Dot, Horizontal, curve_panels, dot, dot_plot, mark_gain
from elicitation.pages.kit.table import Reasons, sheet, titled
from elicitation.pages.vectors.tables import CONTROLS, DECODINGS, ENDS, VectorTables

_FIT = Style(ink=STEERED, symbol="pentagon")
_MEASURES = {"strict": "Strict: right by a valid process", "answer": "Answer only"}


def effect_figure(tables: VectorTables, decoding: str, canvas: Canvas) -> go.Figure:
    """Strict accuracy: the base at the bottom, the tuned model at the top, each fit above its controls."""
    base, tuned = (tables.row(end, "strict", decoding) for end in ENDS)
    between = [row for row in tables.rows("strict", decoding) if row["fit"] not in ENDS][::-1]
    upwards = [row for fit in dict.fromkeys(row["fit"] for row in between) for row in between if row["fit"] == fit]
    dots = [_dot(row, canvas) for row in (base, *upwards, tuned)]
    figure = dot_plot(dots, canvas, axis="Problems solved, strict", note_title="share of the gain")
    mark_gain(figure, base["value"], tuned["value"], canvas)
    return figure


def fit_styles(tables: VectorTables) -> dict[str, Style]:
    """The look of every fit whose doses were tried."""
    return dict.fromkeys(tables.doses["fit"], _FIT)


def words(row: Mapping[str, Any]) -> str:
    """A row of `VectorTables` in words: the fit or the model, or which control of it."""
    control = row["control"]
    return str(row["label"] if control is None else CONTROLS.get(control, control))


def _dot(row: Mapping[str, Any], canvas: Canvas) -> Dot:
    if row["control"] is not None:
        return dot(row, words(row), hollow(STEERED))
    style = dict(zip(ENDS, (BASE_STYLE, TUNED_STYLE), strict=True)).get(row["fit"], _FIT)
    share = "" if math.isnan(row["share"]) else WHOLE.said(row, "share")
    note = canvas.beside(share if row["refusal"] is None else "refused")
    return dot(row, words(row), style, note=note)


def dose_figure(tables: VectorTables, canvas: Canvas) -> go.Figure:
    """Accuracy by dose; a line a fit, from what the base does without a vector."""
    kept = ("value", "low", "high")
    rows = []
    for measure in _MEASURES:
        plain = tables.row("base", measure, "sampled")
        for fit, label in dosed_labels(tables).items():
            common = {"fit": fit, "label": label, "measure": measure}
            chosen = tables.doses.filter(pl.col("fit") == fit, pl.col("quantity") == measure).sort("dose")
            for row in (plain | {"dose": 0.0}, *chosen.iter_rows(named=True)):
                rows.append(common | {name: row[name] for name in ("dose", *kept)})
    doses = sorted({row["dose"] for row in rows})
    horizontal = Horizontal(
        column="dose",
        title="Dose",
        positions={dose: dose for dose in doses},
        ticks=[(dose, figures(dose)) for dose in doses],
    )
    return curve_panels(
        pl.DataFrame(rows), horizontal, canvas, fit_styles(tables), by="fit", titles=_MEASURES,
        axis="Solved at the first try",
    )  # fmt: skip


def dosed_labels(tables: VectorTables) -> dict[str, str]:
    """Fit -> its name in human words, of those whose doses were tried."""
    return {fit: tables.labels.get(str(fit), str(fit)) for fit in tables.doses["fit"].unique(maintain_order=True)}


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
                reasons.cell(row, WHOLE.cell(row, "share")),
                POINTS.cell(row, "beyond"),
                PERCENT.cell(answer),
                reasons.cell(answer, WHOLE.cell(answer, "share")),
                PERCENT.cell(incoherent),
            )
        )
    return sheet(headings, rows) + reasons.notes()


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
        markup("<li>{}{}: {}</li>", row["label"], f", control {words(row)}" if row["control"] else "", row["reason"])
        for row in fits.filter(pl.col("reason").is_not_null()).iter_rows(named=True)
    ]
    listed = '<div class="refusals"><p>What could not be fitted:</p><ul>{}</ul></div>'
    table = sheet(("", "Norm", "Norm of the stream", "Relative dose"), rows)
    return table + (markup(listed, joined(missing)) if missing else "")


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VectorPage:
    """All that the page needs; every string in it may come from anyone."""

    title: str
    task: str
    """What stands before the word problems, such as `held-out chain`."""
    unrelated: str | None
    """Task of the texts on which damage was measured; None for the task itself."""
    tables: VectorTables
    origin: Origin


def render_vectors(page: VectorPage) -> str:
    """The page as HTML; equal pages give equal text."""
    tables, styles = page.tables, fit_styles(page.tables)
    return document(
        "vectors/page.html",
        page.title,
        page.origin,
        plot_block=plot_block,
        answer=vector_answer(tables, page.task),
        effects={name: effect_table(tables, name) for name in DECODINGS},
        draw_effects={name: partial(effect_figure, tables, name) for name in DECODINGS},
        doses=dose_table(tables),
        draw_doses=partial(dose_figure, tables),
        dose_key=key([(label, styles[fit]) for fit, label in dosed_labels(tables).items()]),
        unrelated=page.unrelated,
        transfers=transfer_table(tables),
        fits=fit_table(tables.fits),
    )
