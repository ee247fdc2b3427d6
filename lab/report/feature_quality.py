"""Feature quality: how well each SAE reads its model, as HTML."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from lab.report.feature_captions import QUALITY
from lab.report.markup import escaped
from lab.report.numerals import ABSENT, figures, fixed, interval, percent
from lab.report.sheet import sheet, with_span

_HEADINGS = ("", "Features", "L0", "Dead", "Explained variance", "Cross-entropy recovered", "Cross-entropy", "KL")


def quality_block(quality: pl.DataFrame, level: int) -> str:
    """One row of `SAE_QUALITY` a row; empty where there are none."""
    if quality.is_empty():
        return ""
    table = sheet(_HEADINGS, [_row(row) for row in quality.iter_rows(named=True)])
    return f'{QUALITY.head(level)}{table}<p class="note">{QUALITY.key}</p>'


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    spliced, clean, ablated = (fixed(row[f"ce_{name}"], 3) for name in ("spliced", "clean", "ablated"))
    recovered = percent(row["ce_recovered"])
    told = interval(row["ce_recovered_low"], row["ce_recovered_high"])
    return (
        f'{escaped(row["sae"])}<span class="what">{escaped(row["architecture"])} at {escaped(row["site"])}</span>',
        f"{row['d_sae']:,}".replace(",", "\u202f"),
        figures(row["l0"]),
        percent(row["dead_share"]),
        with_span(percent(row["explained_variance"]), f"{row['n_rows']:,} activations".replace(",", "\u202f")),
        with_span(recovered, "the mean costs nothing" if recovered == ABSENT else told),
        with_span(spliced, f"clean {clean}, mean {ablated}"),
        figures(row["kl"]),
    )
