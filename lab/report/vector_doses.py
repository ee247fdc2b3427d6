"""Vector doses: what each fit does at several strengths, as figure and table."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from lab.report.canvas import Canvas
from lab.report.curve_panels import Horizontal, curve_panels
from lab.report.markup import escaped
from lab.report.numerals import figures, interval, percent, span
from lab.report.plot_block import arm_key, plot_block
from lab.report.sheet import sheet, with_span
from lab.report.vector_captions import DOSES
from lab.report.vector_effects import fit_styles
from lab.report.vector_ledger import VectorLedger


def dose_block(ledger: VectorLedger, unrelated: str | None) -> str:
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


def dose_figure(ledger: VectorLedger, canvas: Canvas) -> go.Figure:
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


def dose_table(ledger: VectorLedger) -> str:
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


def _labels(ledger: VectorLedger) -> dict[str, str]:
    known = dict(ledger.effects.select("fit", "label").iter_rows())
    return {fit: known.get(fit, fit) for fit in ledger.doses["fit"].unique(maintain_order=True)}


def _fraction(row: Mapping[str, Any]) -> str:
    return with_span(percent(row["value"]), interval(row["low"], row["high"]))
