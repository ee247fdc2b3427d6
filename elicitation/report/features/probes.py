"""Feature probes: how well kinds of tokens can be told apart by all of the stream or by a few features."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go
import polars as pl

from elicitation.report.features.captions import PROBES, QUALITY
from elicitation.report.kit.canvas import AUROC, Canvas, sheet, with_span
from elicitation.report.kit.dot_plot import Dot, dot_plot
from elicitation.report.kit.markup import escaped
from elicitation.report.kit.palette import BASE, STEERED, ArmStyle
from elicitation.report.kit.plot_block import plot_block
from lab.records.numerals import ABSENT, figures, fixed, interval, percent

_STYLES: Mapping[str, ArmStyle] = MappingProxyType(
    {
        "linear": ArmStyle(ink=BASE, symbol="circle", dash="solid", faint=False),
        "sparse": ArmStyle(ink=STEERED, symbol="square", dash="solid", faint=False),
        "shuffled": ArmStyle(ink=STEERED, symbol="circle-open", dash="dot", faint=True),
    }
)
"""Probe -> its look, in reading order."""
_LISTED = 8


def probe_block(label_probes: pl.DataFrame, level: int) -> str:
    """Figure and table of `LABEL_PROBES`; empty where there are none."""
    if label_probes.is_empty():
        return ""
    plot = plot_block(
        "feature-probes", lambda canvas: probe_figure(label_probes, canvas), says=PROBES.says, caption=PROBES.below
    )
    table = f"<details><summary>Every probe</summary>{probe_table(label_probes)}</details>"
    return f"{PROBES.head(level)}{plot}{table}"


def probe_figure(label_probes: pl.DataFrame, canvas: Canvas) -> go.Figure:
    """Of each label, the linear probe, the sparse one of most features and its control."""
    widest = label_probes.filter(pl.col("n_features") == pl.col("n_features").max().over("label", "probe"))
    dots = [_dot(row, canvas) for row in reversed(_ordered(widest))]
    return dot_plot(dots, canvas, axis="AUROC on held-out problems", ruler=AUROC)


def probe_table(label_probes: pl.DataFrame) -> str:
    """Every row of `LABEL_PROBES`."""
    headings = ("", "AUROC", "F1", "Tokens of the kind", "Features")
    return sheet(headings, [_row(row) for row in _ordered(label_probes)], {"Features"})


def _ordered(label_probes: pl.DataFrame) -> list[dict[str, Any]]:
    """Labels as they came, each with its probes in reading order."""
    places = {label: place for place, label in enumerate(label_probes["label"].unique(maintain_order=True))}
    order = list(_STYLES)
    kinds = {probe: order.index(probe) if probe in order else len(order) for probe in label_probes["probe"].unique()}
    return sorted(
        label_probes.to_dicts(), key=lambda row: (places[row["label"]], kinds[row["probe"]], row["n_features"])
    )


def _name(row: Mapping[str, Any]) -> str:
    n = row["n_features"]
    reads = {"linear": "the whole stream", "shuffled": "shuffled control"}
    few = f"{n} feature{'' if n == 1 else 's'}" if row["probe"] == "sparse" else row["probe"]
    return reads.get(row["probe"], few)


def _dot(row: Mapping[str, Any], canvas: Canvas) -> Dot:
    note = f"{AUROC.write(row['auroc'])} {AUROC.span(row['low'], row['high'])}".rstrip() if canvas.note_room else ""
    style = _STYLES.get(row["probe"], _STYLES["sparse"])
    name = f"{row['label']} · {_name(row)}"
    return Dot(name=name, value=row["auroc"], low=row["low"], high=row["high"], style=style, note=note)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    auroc, f1, listed = AUROC.write(row["auroc"]), AUROC.write(row["f1"]), list(row["features"])
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return (
        f'{escaped(row["label"])}<span class="what">{escaped(_name(row))}</span>',
        with_span(auroc, "too few tokens" if auroc == ABSENT else AUROC.span(row["low"], row["high"])),
        with_span(f1, "too few tokens" if f1 == ABSENT else ""),
        f"{row['n_labelled']:,} of {row['n_tokens']:,}".replace(",", "\u202f"),
        ", ".join(map(str, listed[:_LISTED])) + more if listed else f"all {row['n_features']} of the stream",
    )


_HEADINGS = (
    "", "Features", "Dead", "L0", "Explained variance", "Cross-entropy recovered", "Cross-entropy, clean",
    "With the SAE", "With the mean", "KL",
)  # fmt: skip


def quality_block(quality: pl.DataFrame, level: int) -> str:
    """One row of `SAE_QUALITY` a row, and which of several is shown; empty where there are none."""
    if quality.is_empty():
        return ""
    table = sheet(_HEADINGS, [_quality_row(row) for row in quality.iter_rows(named=True)])
    shown = f"All features below are those of <b>{escaped(quality['sae'][0])}</b>. " if quality.height > 1 else ""
    return f'{QUALITY.head(level)}{table}<p class="note">{shown}{QUALITY.key}</p>'


def _quality_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    recovered = percent(row["ce_recovered"])
    told = interval(row["ce_recovered_low"], row["ce_recovered_high"])
    read = (
        f"{row['architecture']} at {row['site']}, {_count(row['n_rows'])} activations, {_count(row['n_texts'])} texts"
    )
    return (
        f'{escaped(row["sae"])}<span class="what">{escaped(read)}</span>',
        _count(row["d_sae"]),
        percent(row["dead_share"]),
        figures(row["l0"]),
        percent(row["explained_variance"]),
        with_span(recovered, "nothing to lose" if recovered == ABSENT else told),
        *(fixed(row[f"ce_{name}"], 3) for name in ("clean", "spliced", "ablated")),
        fixed(row["kl"], 3),
    )


def _count(n: int) -> str:
    return f"{n:,}".replace(",", "\u202f")
