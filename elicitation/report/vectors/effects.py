"""Vector effects: how well the base model does under each fit and its controls, as figure and table."""

import math
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from elicitation.report.features.captions import FeatureCaption
from elicitation.report.kit.canvas import Canvas, sheet, with_span
from elicitation.report.kit.dot_plot import Dot, dot_plot, mark_gain
from elicitation.report.kit.markup import Reasons, escaped
from elicitation.report.kit.palette import ArmStyle, arm_styles
from elicitation.report.kit.plot_block import plot_block
from elicitation.report.vectors.answer import GREEDY, SAMPLED
from elicitation.report.vectors.tables import CONTROLS, ENDS, VectorTables
from lab.records.numerals import ABSENT, interval, percent, points

_CAPTIONS: Mapping[str, FeatureCaption] = {"sampled": SAMPLED, "greedy": GREEDY}
_HEADINGS = (
    "", "Strict", "Share of the gain", "Beyond its best control, points", "Answer only", "Share of that gain",
    "Incoherent",
)  # fmt: skip


def effect_block(ledger: VectorTables, decoding: str) -> str:
    """Figure and table of one decoding."""
    caption = _CAPTIONS[decoding]
    plot = plot_block(
        f"vectors-{decoding}",
        lambda canvas: effect_figure(ledger, decoding, canvas),
        says=caption.says,
        caption=caption.below,
    )
    return f"{caption.head(2)}{plot}{effect_table(ledger, decoding)}"


def effect_figure(ledger: VectorTables, decoding: str, canvas: Canvas) -> go.Figure:
    """Strict accuracy: the base at the bottom, the tuned model at the top, each fit above its controls."""
    rows, styles = ledger.rows("strict", decoding), fit_styles(ledger)
    base, tuned = (ledger.row(end, "strict", decoding) for end in ENDS)
    between = [row for row in rows if row["fit"] not in ENDS]
    upwards = [base]
    for fit in dict.fromkeys(row["fit"] for row in between[::-1]):
        upwards += [row for row in between if row["fit"] == fit][::-1]
    dots = [_dot(row, styles, canvas) for row in (*upwards, tuned)]
    figure = dot_plot(dots, canvas, axis="Problems solved, strict", note_title="share of the gain")
    mark_gain(figure, base["value"], tuned["value"], canvas)
    return figure


def effect_table(ledger: VectorTables, decoding: str) -> str:
    """The tuned model, the fits each before its controls, and the base; refused shares point to their reasons."""
    answers = {(row["fit"], row["control"]): row for row in ledger.rows("answer", decoding)}
    broken = {(row["fit"], row["control"]): row for row in ledger.rows("incoherent", decoding)}
    strict = ledger.rows("strict", decoding)
    reasons = Reasons.of(row["refusal"] for row in (*strict, *answers.values()) if row["refusal"] is not None)
    ordered = sorted(strict, key=lambda row: (row["fit"] == "base", row["fit"] != "tuned"))
    body = []
    for row in ordered:
        key = row["fit"], row["control"]
        body.append(
            (
                _name(row),
                _value(row),
                _share(row, reasons),
                with_span(points(row["beyond"]), interval(row["beyond_low"], row["beyond_high"])),
                _value(answers[key]),
                _share(answers[key], reasons),
                _value(broken[key]),
            )
        )
    return f"{sheet(_HEADINGS, body)}{reasons.notes()}"


def fit_styles(ledger: VectorTables) -> dict[str, ArmStyle]:
    """The look of the base, the tuned model, every fit and, as FIT.CONTROL, every control."""
    rows = ledger.rows("strict", "sampled")
    kinds = {**dict.fromkeys(ENDS, "end")}
    frame = pl.DataFrame(
        [
            {
                "arm": _key(row),
                "kind": kinds.get(row["fit"], "rung") if row["control"] is None else "control",
                "control_of": None if row["control"] is None else row["fit"],
                "order": index,
                "family": "vector",
            }
            for index, row in enumerate(rows)
        ],
        schema_overrides={"control_of": pl.String},
    )
    return arm_styles(frame)


def _key(row: Mapping[str, Any]) -> str:
    return row["fit"] if row["control"] is None else f"{row['fit']}.{row['control']}"


def _dot(row: Mapping[str, Any], styles: Mapping[str, ArmStyle], canvas: Canvas) -> Dot:
    told = not math.isnan(row["share"]) and row["control"] is None and canvas.note_room
    refused = "refused" if row["refusal"] is not None and row["control"] is None and canvas.note_room else ""
    return Dot(
        name=_words(row),
        value=row["value"],
        low=row["low"],
        high=row["high"],
        style=styles[_key(row)],
        note=f"{percent(row['share'], 0)} {interval(row['share_low'], row['share_high'], 0)}" if told else refused,
    )


def _name(row: Mapping[str, Any]) -> str:
    if row["control"] is not None:
        return f'<span class="role">control</span> {escaped(_words(row))}'
    return f"<b>{escaped(_words(row))}</b>"


def _words(row: Mapping[str, Any]) -> str:
    control = row["control"]
    return str(row["label"] if control is None else CONTROLS.get(control, control))


def _value(row: Mapping[str, Any]) -> str:
    return with_span(percent(row["value"]), interval(row["low"], row["high"]))


def _share(row: Mapping[str, Any], reasons: Reasons) -> str:
    if row["refusal"] is not None:
        return f"refused{reasons.marks([row['refusal']])}"
    if math.isnan(row["share"]):
        return ABSENT
    return with_span(percent(row["share"], 0), interval(row["share_low"], row["share_high"], 0))
