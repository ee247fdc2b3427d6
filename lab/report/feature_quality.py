"""Feature quality: how well each SAE reads its model, as HTML."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from lab.report.feature_captions import QUALITY
from lab.report.markup import escaped
from lab.report.numerals import ABSENT, figures, fixed, interval, percent
from lab.report.sheet import sheet, with_span

_HEADINGS = (
    "", "Features", "Dead", "L0", "Explained variance", "Cross-entropy recovered", "Cross-entropy, clean",
    "With the SAE", "With the mean", "KL",
)  # fmt: skip


def quality_block(quality: pl.DataFrame, level: int) -> str:
    """One row of `SAE_QUALITY` a row, and which of several is shown; empty where there are none."""
    if quality.is_empty():
        return ""
    table = sheet(_HEADINGS, [_row(row) for row in quality.iter_rows(named=True)])
    shown = f"All features below are those of <b>{escaped(quality['sae'][0])}</b>. " if quality.height > 1 else ""
    return f'{QUALITY.head(level)}{table}<p class="note">{shown}{QUALITY.key}</p>'


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
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
