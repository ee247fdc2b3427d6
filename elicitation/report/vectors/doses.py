"""Vector doses: what each fit does at several strengths, as figure and table."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from elicitation.report.kit.canvas import Canvas, sheet, with_span
from elicitation.report.kit.curve_panels import Horizontal, curve_panels
from elicitation.report.kit.markup import escaped
from elicitation.report.kit.plot_block import arm_key, plot_block
from elicitation.report.vectors.answer import DOSES, TRANSFERS
from elicitation.report.vectors.effects import fit_styles
from elicitation.report.vectors.tables import VectorTables
from lab.records.numerals import figures, interval, percent, points, span


def dose_block(ledger: VectorTables, unrelated: str | None) -> str:
    """Figure and table of the sweep, empty where there was none; `unrelated` is the task of the divergence's texts."""
    if ledger.doses.is_empty():
        return ""
    labels = _labels(ledger)
    key = arm_key(labels, fit_styles(ledger))
    plot = plot_block("vector-doses", lambda canvas: dose_figure(ledger, canvas), says=DOSES.says, caption=DOSES.below)
    texts = f"texts of another task, {escaped(unrelated)}" if unrelated is not None else "the task's own texts"
    note = (
        f'<p class="note"><b>KL</b>: how far the vector moves the prediction of the next token, KL(plain || steered), '
        f"on the base model's own answers: {texts}. <b>Relative dose</b>: at the site where it is largest.</p>"
    )
    return f"{DOSES.head(2)}{key}{plot}{dose_table(ledger)}{note}"


def dose_figure(ledger: VectorTables, canvas: Canvas) -> go.Figure:
    """Accuracy by dose; a line a fit, from what the base does without a vector."""
    labels = _labels(ledger)
    rows = []
    for measure in ("strict", "answer"):
        plain = ledger.row("base", measure, "sampled")
        for fit, label in labels.items():
            common = {"arm": fit, "label": label, "measure": measure}
            rows.append(common | {"dose": 0.0} | {name: plain[name] for name in ("value", "low", "high")})
            chosen = ledger.doses.filter(pl.col("fit") == fit, pl.col("quantity") == measure).sort("dose")
            rows += [
                common | {name: row[name] for name in ("dose", "value", "low", "high")}
                for row in chosen.iter_rows(named=True)
            ]
    doses = sorted({row["dose"] for row in rows})
    horizontal = Horizontal(
        column="dose",
        title="Dose",
        positions={dose: dose for dose in doses},
        ticks=[(dose, figures(dose)) for dose in doses],
        spread="band",
    )
    return curve_panels(pl.DataFrame(rows), horizontal, canvas, fit_styles(ledger), axis="Solved at the first try")


def dose_table(ledger: VectorTables) -> str:
    """One row a fit and dose."""
    labels, rows = _labels(ledger), []
    for (fit, dose), found in ledger.doses.group_by(["fit", "dose"], maintain_order=True):
        of = {row["quantity"]: row for row in found.iter_rows(named=True)}
        rows.append(
            (
                f'{escaped(labels[str(fit)])}<span class="what">dose {figures(float(str(dose)))}</span>',
                percent(of["strict"]["relative_dose"]),
                *(_fraction(of[name]) for name in ("strict", "answer", "incoherent")),
                with_span(figures(of["kl"]["value"]), span(of["kl"]["low"], of["kl"]["high"])),
            )
        )
    return sheet(("", "Relative dose", "Strict", "Answer only", "Incoherent", "KL, nats a token"), rows)


def _labels(ledger: VectorTables) -> dict[str, str]:
    known = ledger.labels
    return {str(fit): known.get(fit, str(fit)) for fit in ledger.doses["fit"].unique(maintain_order=True)}


def _fraction(row: Mapping[str, Any]) -> str:
    return with_span(percent(row["value"]), interval(row["low"], row["high"]))


_CHECKS = {
    "removes": "subtracted from the tuned model",
    "other base": "on another base",
    "other skill": "where there is nothing to elicit",
}


def transfer_block(ledger: VectorTables) -> str:
    """One row a fit and check, strict; empty where there is none."""
    strict = ledger.transfers.filter(pl.col("quantity") == "strict")
    if strict.is_empty():
        return ""
    labels = ledger.labels
    rows = [_row(row, labels) for row in strict.iter_rows(named=True)]
    headings = ("", "Strict without", "With the vector", "With random ones", "Change, points", "Beyond random, points")
    return f'{TRANSFERS.head(2)}{sheet(headings, rows)}<p class="note">{TRANSFERS.key}</p>'


def _row(row: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[str, ...]:
    check = _CHECKS.get(row["check"], row["check"])
    where = f"{check}: {row['model']}, {row['task']}, dose {figures(row['dose'])}"
    return (
        f'{escaped(labels.get(row["fit"], row["fit"]))}<span class="what">{escaped(where)}</span>',
        percent(row["plain"]),
        percent(row["steered"]),
        percent(row["control"]),
        with_span(points(row["change"]), interval(row["change_low"], row["change_high"])),
        with_span(points(row["beyond"]), interval(row["beyond_low"], row["beyond_high"])),
    )
